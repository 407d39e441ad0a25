"""A server step that remembers something: its state is a companion of the model, in the same commit, through kills."""

import sqlite3
from collections.abc import Callable
from contextlib import closing
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from unit.aggregator.embedded_run import AT_ONCE_S, EmbeddedRun, StateTask
from unit.aggregator.sharded_run import ShardedRun, delta_of, names_of, samples_of, some_state

from aggregator.algorithms.fedavg import FedAvg
from aggregator.algorithms.fedavgm import FedAvgM
from aggregator.algorithms.step import Step, state_names
from broker.states.tensors import State
from console.errors import StateError

Begin = Callable[..., EmbeddedRun]
WORKERS = ("a", "b", "c")
NUM_ROUNDS = 4
INITIAL: State = {"w": torch.linspace(-1, 1, 40_000), "b": torch.zeros(3)}


def delta(worker: str, number: int) -> State:
    random = torch.Generator().manual_seed(number * 1000 + ord(worker))
    return {name: torch.randn(tensor.shape, generator=random) for name, tensor in INITIAL.items()}


def answer(run: EmbeddedRun, number: int, workers: str = "abc") -> None:
    run.fold_all([(worker, delta(worker, number)) for worker in workers])


def begun(begin: Begin, **changes: object) -> EmbeddedRun:
    fields = {"toys": ("momentum",), "rounds": NUM_ROUNDS, "quorum": "3", "commit_every_s": AT_ONCE_S}
    return begin(StateTask(INITIAL), **(fields | changes))


def finished(run: EmbeddedRun, first: int = 1) -> EmbeddedRun:
    for number in range(first, NUM_ROUNDS + 1):
        answer(run, number)
    assert run.aggregator.is_finished
    return run


def final_sha256(run: EmbeddedRun) -> str:
    return str(run.summary["final"]["model_sha256"])


@pytest.mark.parametrize("step", [FedAvg(), FedAvgM(0.75)], ids=["fedavg", "fedavgm"])
def test_blocks_of_any_length_give_the_same_bits(step: Step) -> None:
    random = np.random.default_rng(1)
    means = [random.standard_normal(1000) for _ in range(3)]

    def stepped(size: int) -> tuple[bytes, dict[str, bytes]]:
        changes, states = [], {name: [] for name in state_names(step)}  # type: ignore[var-annotated]
        for start in range(0, 1000, size):
            state = step.init(min(size, 1000 - start))
            for mean in means:
                change, state = step.apply(mean[start : start + size].copy(), state, {})
            changes.append(np.array(change))
            for name, values in state.items():
                states[name].append(values)
        return np.concatenate(changes).tobytes(), {name: np.concatenate(of).tobytes() for name, of in states.items()}

    assert stepped(1000) == stepped(7) == stepped(1)


def test_what_is_remembered_goes_from_round_to_round(begin: Begin) -> None:
    run = finished(begun(begin))
    momentum, model = np.zeros(40_000), INITIAL["w"].double().numpy()
    for number in range(1, NUM_ROUNDS + 1):
        mean = sum(delta(worker, number)["w"].double().numpy() for worker in WORKERS) / 3
        momentum = 0.75 * momentum + mean
        model = (model + 0.5 * momentum).astype(np.float32).astype(np.float64)
    np.testing.assert_allclose(run.model["w"].numpy(), model, atol=1e-6)
    files = {path.name for path in (run.folder / "models").iterdir()}
    assert {"round-00004.safetensors", "round-00004.velocity.safetensors", "round-00003.velocity.safetensors"} <= files
    assert "round-00001.velocity.safetensors" not in files


@pytest.mark.parametrize(("number", "num_folded"), list(product(range(1, NUM_ROUNDS + 1), range(4))))
def test_killed_anywhere_it_ends_with_the_same_bits(begin: Begin, number: int, num_folded: int) -> None:
    expected = final_sha256(finished(begun(begin, folder="undisturbed")))
    run = begun(begin)
    for before in range(1, number):
        answer(run, before)
    answer(run, number, "abc"[:num_folded])
    num_committed = run.query("SELECT count(*) FROM updates WHERE verdict = 'folded'")
    assert num_committed == [(3 * (number - 1) + num_folded,)]
    run = run.crash().start()
    if not run.aggregator.is_finished:
        finished(run, number + (num_folded == 3))
    assert final_sha256(run) == expected


def test_an_abandoned_round_leaves_model_and_memory_as_they_were(begin: Begin) -> None:
    run = begun(begin, deadline_s=5.0, min_updates=3, on_short="abandon")
    answer(run, 1)
    answer(run, 2, "a")
    before = run.folder / "models" / "round-00001.velocity.safetensors"
    content = before.read_bytes()
    run.pass_time(5.0)
    assert run.closed() == [(1, "quorum"), (2, "abandoned")]
    after = run.folder / "models" / "round-00002.velocity.safetensors"
    assert after.read_bytes()[-8 * 40_003 :] == content[-8 * 40_003 :]


@pytest.mark.parametrize("damage", [lambda content: None, lambda content: content[:-1] + bytes([content[-1] ^ 1])])
def test_a_damaged_memory_has_its_round_done_again(begin: Begin, damage: Callable[[bytes], bytes | None]) -> None:
    run = begun(begin)
    answer(run, 1)
    answer(run, 2)
    path = run.folder / "models" / "round-00002.velocity.safetensors"
    broken = damage(path.read_bytes())
    path.unlink()
    if broken is not None:
        path.write_bytes(broken)
    run = run.crash().start()
    assert run.round == 2
    assert final_sha256(finished(run, 2)) == final_sha256(finished(begun(begin, folder="undisturbed")))


def test_a_run_does_not_go_on_with_another_step(begin: Begin) -> None:
    run = begun(begin)
    answer(run, 1)
    run.aggregator.close()
    other = EmbeddedRun.make(run.folder, run.task, broker=run.broker, rounds=NUM_ROUNDS, quorum="3")
    with pytest.raises(StateError, match=r"with --server-optimizer fedavgm:momentum=0\.75, not fedavg"):
        other.start()
    plain = begin(StateTask(INITIAL), folder="plain", rounds=NUM_ROUNDS, quorum="3")
    answer(plain, 1)
    plain.aggregator.close()
    again = EmbeddedRun.make(plain.folder, plain.task, broker=plain.broker, rounds=4, quorum="3", toys=("momentum",))
    with pytest.raises(StateError, match=r"with --server-optimizer fedavg, not fedavgm:momentum=0\.75"):
        again.start()


def test_what_a_step_remembers_is_not_on_the_stream_and_a_take_over_says_that_it_begins_anew(
    begin: Begin, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = begun(begin)
    answer(run, 1)
    run.aggregator.close()
    fields = {"rounds": NUM_ROUNDS, "quorum": "3", "take_over": True}
    elsewhere = EmbeddedRun.make(tmp_path / "elsewhere", run.task, broker=run.broker, toys=("momentum",), **fields)
    elsewhere.start()
    assert "(fedavgm:momentum=0.75) remembers is not on the stream: it begins anew with round 2" in caplog.text
    assert elsewhere.query("SELECT value FROM run WHERE key = 'optimizer_begins_with'") == [("2",)]
    before = elsewhere.model["b"].clone()
    answer(elsewhere, 2)
    mean = sum(delta(worker, 2)["b"] for worker in WORKERS) / 3
    torch.testing.assert_close(elsewhere.model["b"], before + 0.5 * mean)


def test_only_a_ledger_with_companions_has_a_newer_format(begin: Begin) -> None:
    def format_of(run: EmbeddedRun) -> int:
        with closing(sqlite3.connect(run.folder / "ledger.sqlite")) as database:
            return int(database.execute("PRAGMA user_version").fetchone()[0])

    plain = begin(StateTask(INITIAL), folder="plain", rounds=2, quorum="3")
    answer(plain, 1)
    remembering = begun(begin)
    assert format_of(remembering) == 1
    answer(remembering, 1)
    assert (format_of(plain), format_of(remembering)) == (1, 2)


@pytest.mark.parametrize("num_shards", [1, 2])
def test_partial_sums_give_the_same_bits(tmp_path: Path, num_shards: int) -> None:
    names = [name for shard in range(num_shards) for name in names_of(shard, 6 // num_shards, num_shards)]
    fields = {"quorum": "6", "rounds": 3, "toys": ("momentum",)}
    alone = EmbeddedRun.make(tmp_path / "alone", StateTask(some_state(0)), **fields).start()
    for number in range(1, 4):
        for name in names:
            alone.send(name, delta_of(name, number), num_samples=samples_of(name))
        alone.settle()
    run = ShardedRun.make(tmp_path / "sharded", num_shards=num_shards, **fields).start()
    for _ in range(3):
        run.answer(names)
        run.pass_time()
    assert run.root.summary["final"]["model_sha256"] == alone.summary["final"]["model_sha256"]
    for each in (alone, run.root):
        each.aggregator.close()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("restarted", [False, True])
def test_steps_below_half_an_ulp_of_a_half_precision_model_add_up(
    begin: Begin, dtype: torch.dtype, restarted: bool
) -> None:
    run = begin(StateTask({"w": torch.ones(3, dtype=dtype)}), rounds=9, quorum="1")
    ulp = float(torch.nextafter(torch.ones(1, dtype=dtype), torch.full((1,), 2.0, dtype=dtype))) - 1
    for _ in range(8):
        run.fold_all([("a", {"w": torch.full((3,), ulp / 4, dtype=dtype)})])
        run = run.crash().start() if restarted else run
    assert run.model["w"].tolist() == [1 + 2 * ulp] * 3
