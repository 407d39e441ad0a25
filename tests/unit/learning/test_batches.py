"""The order in which a training meets its samples."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from learning import Plan
from learning.batches import Batches


def plan(**changes: int) -> Plan:
    return Plan(**{"round": 1, "seed": 5, "lr": 0.1, **changes})  # type: ignore[arg-type]


@settings(deadline=None)
@given(
    num_samples=st.integers(1, 50),
    batch_size=st.integers(0, 60),
    epochs=st.integers(1, 3),
    join_single=st.booleans(),
)
def test_every_epoch_meets_every_sample_once(num_samples: int, batch_size: int, epochs: int, join_single: bool) -> None:
    batches = Batches(num_samples=num_samples, plan=plan(batch_size=batch_size, epochs=epochs), join_single=join_single)
    met = list(batches)

    assert len(met) == len(batches)
    assert sorted(torch.cat(met).tolist()) == sorted(list(range(num_samples)) * epochs)


def test_epochs_are_shuffled_unlike_each_other_and_alike_for_one_seed() -> None:
    batches = Batches(num_samples=20, plan=plan(batch_size=0, epochs=2))
    first, second = batches

    assert first.tolist() != second.tolist()
    assert [batch.tolist() for batch in batches] == [first.tolist(), second.tolist()]


def test_a_limit_of_steps_counts_over_all_epochs() -> None:
    assert [len(batch) for batch in Batches(num_samples=5, plan=plan(batch_size=3, epochs=4, max_steps=3))] == [3, 2, 3]


def test_a_last_batch_of_one_sample_stays_alone_unless_asked_to_join() -> None:
    assert Batches(num_samples=9, plan=plan(batch_size=4)).sizes == [4, 4, 1]
    assert Batches(num_samples=9, plan=plan(batch_size=4), join_single=True).sizes == [4, 5]
