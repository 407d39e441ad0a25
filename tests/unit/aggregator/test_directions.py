"""How far updates go, and whether they go where their mean goes."""

import math
import sqlite3
from contextlib import closing

import numpy as np
import pytest
import torch
from unit.aggregator.conftest import Begin
from unit.aggregator.embedded_run import AT_ONCE_S, EmbeddedRun, StateTask

from aggregator.history import History
from aggregator.rounds.accumulator import Key
from aggregator.rounds.directions import Directions
from broker.states.tensors import State
from broker.wire.specs import TensorSpec

MOST_OFF = 0.1
"""Three standard errors of a cosine."""
NUM = 100_000


def specs(*kinds: tuple[str, str, int]) -> tuple[TensorSpec, ...]:
    return tuple(TensorSpec(name, dtype, (num,)) for name, dtype, num in kinds)


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))


@pytest.mark.parametrize("base", ["noise", "constant"])
def test_cosines_with_the_weighted_mean_are_right_to_a_few_hundredths(base: str) -> None:
    random = np.random.default_rng(5)
    common = np.ones(NUM) if base == "constant" else random.normal(size=NUM)
    shares, weights = (1.0, 0.9, 0.5, 0.0, -0.5, -1.0), (1.0, 3.0, 2.0, 1.0, 4.0, 1.0)
    updates = [share * common + math.sqrt(1 - share**2) * random.normal(size=NUM) for share in shares]
    directions = Directions(specs(("w", "float32", NUM)), {"w"})
    for number, (update, weight) in enumerate(zip(updates, weights, strict=True)):
        directions.begin()
        directions.add(0, update.astype(np.float32).tobytes())
        norm = directions.end(Key(1, str(number)), weight)
        assert norm == pytest.approx(np.linalg.norm(update), rel=1e-5)
    mean = sum(weight * update for weight, update in zip(weights, updates, strict=True))
    found = directions.cosines()
    for number, update in enumerate(updates):
        assert found[Key(1, str(number))] == pytest.approx(cosine(update, mean), abs=MOST_OFF)


def test_pieces_may_be_cut_anywhere() -> None:
    shape = specs(("a", "float64", 700), ("b", "float32", 3000), ("c", "float32", 70_001), ("n", "int32", 50))
    payload = np.random.default_rng(1).integers(0, 256, 8 * 700 + 4 * 73_001 + 200, np.uint8).tobytes()
    clean = bytearray(payload)
    clean[: 8 * 700] = np.random.default_rng(2).normal(size=700).tobytes()
    clean[8 * 700 : 8 * 700 + 4 * 73_001] = np.random.default_rng(3).normal(size=73_001).astype(np.float32).tobytes()
    found = []
    for step in (len(clean), 8 * 1000, 8 * 37):
        directions = Directions(shape, {"a", "b", "c"})
        directions.begin()
        for offset in range(0, len(clean), step):
            directions.add(offset, bytes(clean[offset : offset + step]))
        found.append(directions.end(Key(1, "a"), 1.0))
        assert directions.cosines()[Key(1, "a")] == pytest.approx(1)
    assert found[1:] == pytest.approx(found[:1] * 2, rel=1e-5)


def test_only_trained_tensors_count_in_any_floating_point_type() -> None:
    values = torch.tensor([3.0, 0.0, -4.0, 0.0])
    for dtype in (torch.float64, torch.float32, torch.float16, torch.bfloat16):
        name = str(dtype).removeprefix("torch.")
        directions = Directions(specs(("w", name, 4), ("running_var", name, 4)), {"w"})
        directions.begin()
        payload = values.to(dtype).view(torch.uint8).numpy().tobytes()
        directions.add(0, payload + (values * 100).to(dtype).view(torch.uint8).numpy().tobytes())
        assert directions.end(Key(1, "a"), 1.0) == 5.0


def test_what_is_beyond_float32_has_no_norm_and_its_round_no_cosines() -> None:
    directions = Directions(specs(("w", "float64", 2)), {"w"})
    for worker, value in (("a", 1.0), ("b", 1e300)):
        directions.begin()
        directions.add(0, np.array([value, 0.0]).tobytes())
        assert (directions.end(Key(1, worker), 1.0) is None) == (worker == "b")
    assert directions.cosines() == {}


def test_an_update_that_is_taken_out_again_is_not_in_the_mean() -> None:
    directions = Directions(specs(("w", "float32", 2)), {"w"})
    for worker, value in (("a", 1.0), ("b", -5.0)):
        directions.begin()
        directions.add(0, np.array([value, value], np.float32).tobytes())
        directions.end(Key(1, worker), 1.0)
    assert directions.cosines() == pytest.approx({Key(1, "a"): -1.0, Key(1, "b"): 1.0})
    directions.take_out(Key(1, "b"))
    assert directions.cosines() == pytest.approx({Key(1, "a"): 1.0})


def test_an_update_of_nothing_has_no_direction() -> None:
    directions = Directions(specs(("w", "float32", 2)), {"w"})
    directions.begin()
    directions.add(0, bytes(8))
    assert directions.end(Key(1, "a"), 1.0) == 0.0
    assert directions.cosines() == {}


INITIAL: State = {"w": torch.zeros(3), "n": torch.zeros(2, dtype=torch.int64)}


def send(run: EmbeddedRun, **deltas: float) -> None:
    whole = torch.zeros(2, dtype=torch.int64)
    run.fold_all([(worker, {"w": torch.full((3,), value), "n": whole}) for worker, value in deltas.items()])


def test_a_site_that_pulls_the_other_way_is_seen_in_the_ledger_and_in_the_contributions(begin: Begin) -> None:
    run = begin(StateTask(INITIAL), rounds=1, quorum="3")
    send(run, a=1.0, b=2.0, c=-1.0)
    norms = {"a": math.sqrt(3), "b": math.sqrt(12), "c": math.sqrt(3)}
    for worker, norm, cosine in run.query("SELECT worker, norm, cosine FROM updates"):
        assert (norm, cosine) == pytest.approx((norms[worker], -1.0 if worker == "c" else 1.0))
    with History(run.folder) as history:
        assert [row["mean_cosine"] for row in history.contributions()] == pytest.approx([1.0, 1.0, -1.0])
        assert history.contributions()[1]["mean_norm"] == pytest.approx(norms["b"])


def test_after_a_kill_within_the_round_it_has_no_cosines_and_the_next_one_has(begin: Begin) -> None:
    run = begin(StateTask(INITIAL), rounds=2, quorum="2", commit_every_s=AT_ONCE_S)
    send(run, a=1.0)
    run = run.crash().start()
    send(run, b=2.0)
    send(run, a=1.0, b=2.0)
    found = run.query("SELECT round, norm IS NOT NULL, cosine IS NOT NULL FROM updates ORDER BY id")
    assert found == [(1, 1, 0), (1, 1, 0), (2, 1, 1), (2, 1, 1)]


def test_a_ledger_of_before_has_contributions_without_directions(begin: Begin) -> None:
    run = begin(StateTask(INITIAL), rounds=1, quorum="1")
    send(run, a=1.0)
    run.aggregator.close()
    with closing(sqlite3.connect(run.folder / "ledger.sqlite")) as database:
        database.executescript("ALTER TABLE updates DROP COLUMN norm; ALTER TABLE updates DROP COLUMN cosine")
    with History(run.folder) as history:
        assert [(row["mean_norm"], row["mean_cosine"]) for row in history.contributions()] == [(None, None)]
