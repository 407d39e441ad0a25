"""An accumulator that keeps the updates themselves: the commit rule holds for it as for the sum."""

from collections.abc import Callable
from itertools import permutations
from pathlib import Path

import pytest
import torch
from unit.aggregator.embedded_run import AT_ONCE_S, EmbeddedRun, StateTask

from broker.states.tensors import State
from console.errors import SettingsError

Begin = Callable[..., EmbeddedRun]
INITIAL: State = {"w": torch.linspace(-1, 1, 5000), "b": torch.zeros(3, dtype=torch.float64)}


def delta(worker: str, number: int) -> State:
    random = torch.Generator().manual_seed(number * 1000 + ord(worker))
    return {name: torch.randn(t.shape, generator=random, dtype=t.dtype) for name, t in INITIAL.items()}


def begun(begin: Begin, **changes: object) -> EmbeddedRun:
    fields = {"toys": ("spool",), "rounds": 2, "quorum": "3", "commit_every_s": AT_ONCE_S}
    return begin(StateTask(INITIAL), **(fields | changes))


def answered(run: EmbeddedRun, number: int, workers: str = "abc") -> EmbeddedRun:
    run.fold_all([(worker, delta(worker, number)) for worker in workers])
    return run


def final_sha256(run: EmbeddedRun) -> str:
    return str(run.summary["final"]["model_sha256"])


def test_any_order_gives_the_same_bits_and_nothing_is_left(begin: Begin) -> None:
    digests = set()
    for number, workers in enumerate(permutations("abc")):
        run = begun(begin, folder=f"run-{number}")
        answered(answered(run, 1, "".join(workers)), 2, "".join(reversed(workers)))
        digests.add(final_sha256(run))
        assert not list(run.folder.glob("sum-*"))
    assert len(digests) == 1


def test_its_mean_is_that_of_the_sum(begin: Begin) -> None:
    kept, summed = begun(begin), begun(begin, folder="summed", toys=())
    for run in (kept, summed):
        answered(run, 1)
    torch.testing.assert_close(kept.model, summed.model)


@pytest.mark.parametrize("num_folded", range(4))
def test_killed_after_any_update_it_ends_with_the_same_bits(begin: Begin, num_folded: int) -> None:
    expected = final_sha256(answered(answered(begun(begin, folder="undisturbed"), 1), 2))
    run = answered(begun(begin), 1, "cba"[:num_folded])
    assert run.query("SELECT count(*) FROM updates WHERE verdict = 'folded'") == [(num_folded,)]
    run = run.crash().start()
    answered(run, 1, "cba"[num_folded:])
    run.settle()
    assert final_sha256(answered(run, 2)) == expected


def test_a_repeated_update_counts_once(begin: Begin) -> None:
    expected = final_sha256(answered(answered(begun(begin, folder="undisturbed"), 1), 2))
    run = answered(answered(begun(begin), 1, "aab"), 1, "c")
    assert final_sha256(answered(run, 2)) == expected


def test_half_an_update_leaves_no_trace(begin: Begin) -> None:
    expected = final_sha256(answered(answered(begun(begin, folder="undisturbed"), 1), 2))
    run = answered(begun(begin), 1, "a")
    broken = delta("x", 1) | {"w": torch.full((5000,), float("nan"))}
    run.site.send(run.update("x", broken, blob_bytes=1024), worker="x")
    run.settle()
    assert len(run.reasons) == 1
    answered(run, 1, "bc")
    assert final_sha256(answered(run, 2)) == expected


def test_sums_of_shards_are_refused_at_the_start(tmp_path: Path) -> None:
    run = EmbeddedRun.make(tmp_path, StateTask(INITIAL), shards=2, toys=("spool",))
    with pytest.raises(SettingsError, match="--shards sums updates on their way"):
        run.start()
