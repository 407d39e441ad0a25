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

from aggregator.algorithms import RoundFacts, ServerOptimizer
from aggregator.algorithms.step import Step, state_names
from broker.states.tensors import State
from broker.wire.messages import LocalTraining
from console.errors import StateError

Begin = Callable[..., EmbeddedRun]
WORKERS = ("a", "b", "c")
NUM_ROUNDS = 4
INITIAL: State = {"w": torch.linspace(-1, 1, 40_000), "b": torch.zeros(3)}
MOMENTUM, MOST = "fedavgm:momentum=0.75", "fedams:bias_correction=true"
"""One that remembers little, and the one that remembers most: three values of each element, and scalars."""
OPTIMIZERS = (
    MOMENTUM,
    "diloco",
    "fedadam",
    "fedadam:bias_correction=true",
    "fedyogi:v0=0",
    "fedadagrad:beta1=0.5",
    MOST,
    "fedexp",
)
each_optimizer = pytest.mark.parametrize("optimizer", OPTIMIZERS)
remembering = pytest.mark.parametrize("optimizer", OPTIMIZERS[:-1])
STEPS = [ServerOptimizer.parse(text).step for text in ("fedavg", *OPTIMIZERS)]


def delta(worker: str, number: int) -> State:
    random = torch.Generator().manual_seed(number * 1000 + ord(worker))
    return {name: torch.randn(tensor.shape, generator=random) for name, tensor in INITIAL.items()}


def answer(run: EmbeddedRun, number: int, workers: str = "abc") -> None:
    run.fold_all([(worker, delta(worker, number)) for worker in workers])


def begun(begin: Begin, optimizer: str = MOMENTUM, **changes: object) -> EmbeddedRun:
    fields = {"server_optimizer": optimizer, "server_lr": 0.5, "rounds": NUM_ROUNDS, "quorum": "3"}
    return begin(StateTask(INITIAL), **(fields | {"commit_every_s": AT_ONCE_S} | changes))


def finished(run: EmbeddedRun, first: int = 1) -> EmbeddedRun:
    for number in range(first, NUM_ROUNDS + 1):
        answer(run, number)
    assert run.aggregator.is_finished
    return run


def final_sha256(run: EmbeddedRun) -> str:
    return str(run.summary["final"]["model_sha256"])


def state_after(run: EmbeddedRun, number: int) -> dict[str, bytes]:
    """The values of all that is remembered after a round, and its scalars."""
    num_bytes = 8 * sum(tensor.numel() for tensor in INITIAL.values())
    files = (run.folder / "models").glob(f"round-{number:05d}.*.safetensors")
    found = {path.name.split(".")[1]: path.read_bytes()[-num_bytes:] for path in files}
    scalars = run.query(f"SELECT step_scalars FROM rounds WHERE round = {number}")
    return found | {"scalars": str(scalars).encode()}


@pytest.mark.parametrize("step", STEPS, ids=lambda step: type(step).__name__)
def test_blocks_of_any_length_give_the_same_bits(step: Step) -> None:
    random = np.random.default_rng(1)
    means = [random.standard_normal(1000) for _ in range(3)]
    scalars = {"beta1_power": 0.81, "beta2_power": 0.9801, "correction": 0.7, "factor": 1.3}

    def stepped(size: int) -> tuple[bytes, dict[str, bytes]]:
        changes, states = [], {name: [] for name in state_names(step)}  # type: ignore[var-annotated]
        for start in range(0, 1000, size):
            state = step.init(min(size, 1000 - start))
            for mean in means:
                change, state = step.apply(mean[start : start + size].copy(), state, scalars)
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


@each_optimizer
def test_killed_after_each_update_it_ends_with_the_same_bits(begin: Begin, optimizer: str) -> None:
    expected = finished(begun(begin, optimizer, folder="undisturbed"))
    run = begun(begin, optimizer)
    for number in range(1, NUM_ROUNDS + 1):
        for worker in WORKERS:
            answer(run, number, worker)
            run = run.crash().start()
    assert final_sha256(run) == final_sha256(expected)
    assert state_after(run, NUM_ROUNDS) == state_after(expected, NUM_ROUNDS)


@each_optimizer
def test_order_and_duplicates_change_nothing(begin: Begin, optimizer: str) -> None:
    expected = finished(begun(begin, optimizer, folder="undisturbed"))
    run = begun(begin, optimizer)
    for number, workers in enumerate(("cab", "bca", "cba", "acb"), start=1):
        answer(run, number, workers[0] * 2 + workers[1] + workers[0] + workers[2])
    assert final_sha256(run) == final_sha256(expected)
    assert state_after(run, NUM_ROUNDS) == state_after(expected, NUM_ROUNDS)


@each_optimizer
def test_stale_updates_in_any_order_have_the_same_bits(begin: Begin, optimizer: str) -> None:
    def final(order: str) -> bytes:
        run = begun(begin, optimizer, folder=order, max_staleness=2, quorum="3")
        answer(run, 1)
        for number in (2, 3):
            for worker in order:
                base = number - (worker == "b")
                run.send(f"{worker}{number}", delta(worker, number), round=base, num_samples=1 + ord(worker) % 3)
            run.settle()
        assert run.round == 4
        return run.model["w"].numpy().tobytes()

    assert final("abc") == final("cba") == final("bac")


@pytest.mark.parametrize(("number", "num_folded"), list(product(range(1, NUM_ROUNDS + 1), range(4))))
def test_killed_anywhere_it_ends_with_the_same_bits(begin: Begin, number: int, num_folded: int) -> None:
    expected = final_sha256(finished(begun(begin, MOST, folder="undisturbed")))
    run = begun(begin, MOST)
    for before in range(1, number):
        answer(run, before)
    answer(run, number, "abc"[:num_folded])
    num_committed = run.query("SELECT count(*) FROM updates WHERE verdict = 'folded'")
    assert num_committed == [(3 * (number - 1) + num_folded,)]
    run = run.crash().start()
    if not run.aggregator.is_finished:
        finished(run, number + (num_folded == 3))
    assert final_sha256(run) == expected


@remembering
def test_an_abandoned_round_leaves_model_and_memory_as_they_were(begin: Begin, optimizer: str) -> None:
    run = begun(begin, optimizer, deadline_s=5.0, min_updates=3, on_short="abandon")
    answer(run, 1)
    answer(run, 2, "a")
    before, model = state_after(run, 1), run.model
    assert len(before) > 1
    run.pass_time(5.0)
    assert run.closed() == [(1, "quorum"), (2, "abandoned")]
    assert state_after(run, 2) == before
    assert all(torch.equal(run.model[name], model[name]) for name in model)


@remembering
def test_a_round_that_leaves_the_range_leaves_the_memory_as_it_was(begin: Begin, optimizer: str) -> None:
    small: State = {"w": torch.full((4,), 6e4, dtype=torch.float16)}
    run = begin(StateTask(small), server_optimizer=optimizer, server_lr=1e7, rounds=3, quorum="1")
    run.fold_all([("a", {"w": torch.full((4,), 1e-3, dtype=torch.float16)})])
    assert run.closed() == [(1, "abandoned")]
    files = sorted((run.folder / "models").glob("round-00001.*.safetensors"))
    step = ServerOptimizer.parse(optimizer).step
    kept = {path.name.split(".")[1]: np.frombuffer(path.read_bytes()[-32:]) for path in files}
    begun_with = {**step.init(4), "master": np.full(4, 6e4)}
    assert kept.keys() == begun_with.keys() | ({"safetensors"} & kept.keys())
    for name, values in begun_with.items():
        np.testing.assert_array_equal(kept[name], small["w"].double().numpy() if name == "master" else values)


@pytest.mark.parametrize("damage", [lambda content: None, lambda content: content[:-1] + bytes([content[-1] ^ 1])])
@pytest.mark.parametrize(("optimizer", "name"), [(MOMENTUM, "velocity"), (MOST, "v_max"), ("fedyogi", "v")])
def test_a_damaged_memory_has_its_round_done_again(
    begin: Begin, damage: Callable[[bytes], bytes | None], optimizer: str, name: str
) -> None:
    run = begun(begin, optimizer)
    answer(run, 1)
    answer(run, 2)
    path = run.folder / "models" / f"round-00002.{name}.safetensors"
    broken = damage(path.read_bytes())
    path.unlink()
    if broken is not None:
        path.write_bytes(broken)
    run = run.crash().start()
    assert run.round == 2
    undisturbed = finished(begun(begin, optimizer, folder="undisturbed"))
    assert final_sha256(finished(run, 2)) == final_sha256(undisturbed)


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
    again = EmbeddedRun.make(
        plain.folder, plain.task, broker=plain.broker, rounds=4, quorum="3", server_optimizer=MOMENTUM
    )
    with pytest.raises(StateError, match=r"with --server-optimizer fedavg, not fedavgm:momentum=0\.75"):
        again.start()


@each_optimizer
def test_with_a_reset_another_step_begins_with_the_open_round(
    begin: Begin, caplog: pytest.LogCaptureFixture, optimizer: str
) -> None:
    before = "fedadam" if optimizer != "fedadam" else MOMENTUM
    run = begun(begin, before)
    answer(run, 1)
    answer(run, 2)
    answer(run, 3, "a")
    model = run.model["b"].double().numpy()
    run.aggregator.close()
    fields = {"server_optimizer": optimizer, "server_lr": 0.5, "rounds": NUM_ROUNDS, "quorum": "3"}
    fields |= {"server_state": "reset", "commit_every_s": AT_ONCE_S}
    run = EmbeddedRun.make(run.folder, run.task, broker=run.broker, **fields).start()
    assert f"from round 3 on the server's optimizer is {optimizer}, and no more {before}" in caplog.text
    assert run.query("SELECT value FROM run WHERE key = 'optimizer_begins_with'") == [("3",)]
    for worker in "bc":
        answer(run, 3, worker)
        run = run.crash().start()
    if optimizer != "fedexp":
        step = ServerOptimizer.parse(optimizer).step
        mean = sum(delta(worker, 3)["b"].double().numpy() for worker in WORKERS) / 3
        direction, _ = step.apply(mean, step.init(3), step.scalars({}, no_facts()))
        np.testing.assert_allclose(run.model["b"].numpy(), model + 0.5 * direction, atol=1e-6)
    assert caplog.text.count("begins anew, as --server-state reset says") == 1
    answer(run, 4)
    assert run.aggregator.is_finished
    assert run.query("SELECT value FROM run WHERE key = 'server_optimizer'") == [(f'"{optimizer}"',)]
    run.aggregator.close()


def test_a_damaged_model_after_a_reset_has_its_round_done_again(begin: Begin) -> None:
    fields = {"server_lr": 0.5, "rounds": NUM_ROUNDS, "quorum": "3", "server_state": "reset"}

    def reset_after_one(folder: str) -> EmbeddedRun:
        run = begun(begin, "diloco", folder=folder)
        answer(run, 1)
        run.aggregator.close()
        own = {"server_optimizer": "fedyogi", "commit_every_s": AT_ONCE_S}
        return EmbeddedRun.make(run.folder, run.task, broker=run.broker, **own, **fields).start()

    expected = finished(reset_after_one("undisturbed"), 2)
    run = reset_after_one("damaged")
    answer(run, 2)
    (run.folder / "models" / "round-00002.v.safetensors").unlink()
    run = run.crash().start()
    assert run.round == 2
    assert final_sha256(finished(run, 2)) == final_sha256(expected)
    for each in (run, expected):
        each.aggregator.close()


@remembering
def test_what_a_step_remembers_is_not_on_the_stream_and_a_take_over_says_that_it_begins_anew(
    begin: Begin, tmp_path: Path, caplog: pytest.LogCaptureFixture, optimizer: str
) -> None:
    run = begun(begin, optimizer)
    answer(run, 1)
    run.aggregator.close()
    fields = {"rounds": NUM_ROUNDS, "quorum": "3", "take_over": True, "server_optimizer": optimizer, "server_lr": 0.5}
    elsewhere = EmbeddedRun.make(tmp_path / "elsewhere", run.task, broker=run.broker, **fields)
    elsewhere.start()
    assert f"({optimizer}) remembers is not on the stream: it begins anew with round 2" in caplog.text
    assert elsewhere.query("SELECT value FROM run WHERE key = 'optimizer_begins_with'") == [("2",)]
    step = ServerOptimizer.parse(optimizer).step
    mean = sum(delta(worker, 2)["b"].double().numpy() for worker in WORKERS) / 3
    scalars = step.scalars({}, no_facts())
    direction, _ = step.apply(mean, step.init(3), scalars)
    before = elsewhere.model["b"].double().numpy()
    answer(elsewhere, 2)
    np.testing.assert_allclose(elsewhere.model["b"].numpy(), before + 0.5 * direction, atol=1e-6)
    elsewhere.aggregator.close()


def no_facts() -> RoundFacts:
    """What none of those that remember looks at."""
    return RoundFacts(folded=(), divisor=1.0, mean_norm=lambda: 1.0, local=LocalTraining())


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


@remembering
@pytest.mark.parametrize("num_shards", [1, 2])
def test_partial_sums_give_the_same_bits(tmp_path: Path, num_shards: int, optimizer: str) -> None:
    names = [name for shard in range(num_shards) for name in names_of(shard, 6 // num_shards, num_shards)]
    fields = {"quorum": "6", "rounds": 3, "server_optimizer": optimizer, "server_lr": 0.5}
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
