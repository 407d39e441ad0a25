"""Blobs under the next name, where the broker could not use the first any more: each is freed as any other."""

from collections.abc import Sequence
from pathlib import Path

import pytest
from unit.aggregator.conftest import Begin
from unit.aggregator.embedded_run import EmbeddedRun, StateTask, payload_of, state_of
from unit.aggregator.sharded_run import ShardedRun, delta_of, samples_of
from unit.aggregator.sharded_run import names_of as workers_of

from broker.memory import MemoryBroker, MemoryTransport
from broker.transport import BlobUpload
from broker.wire.codec import encode
from broker.wire.messages import BlobRef, ModelHead
from simulation.cli import _remove_queues

ZERO = StateTask(state_of(w=[0.0, 0.0]))
ONE = state_of(w=[1.0, 0.5])
EVERYBODY = [*workers_of(0, 3), *workers_of(1, 3)]


class Renaming:
    """What all transports do: they write under the next name while ``is_on``, and remember what they deleted."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.is_on = True
        self.deleted: list[tuple[str, bool]] = []
        """(name, whether it was there)."""
        begin, delete = MemoryTransport.open_blob, MemoryTransport.delete_blobs

        def open_blob(transport: MemoryTransport, name: str) -> BlobUpload:
            return begin(transport, f"{name}.1" if self.is_on else name)

        def delete_blobs(transport: MemoryTransport, names: Sequence[str]) -> None:
            self.deleted += [(name, name in transport._broker.blobs) for name in names]
            delete(transport, names)

        monkeypatch.setattr(MemoryTransport, "open_blob", open_blob)
        monkeypatch.setattr(MemoryTransport, "delete_blobs", delete_blobs)


@pytest.fixture
def renaming(monkeypatch: pytest.MonkeyPatch) -> Renaming:
    return Renaming(monkeypatch)


def models_of(broker: MemoryBroker) -> list[str]:
    return sorted(name for name in broker.blobs if ".model." in name)


def close_rounds(run: EmbeddedRun, number: int) -> None:
    for _ in range(number):
        run.fold_all([("a", ONE), ("b", ONE)])


def test_outdated_models_are_freed(begin: Begin, renaming: Renaming) -> None:
    run = begin(ZERO, inline_cap=0, part_bytes=8, rounds=5)
    close_rounds(run, 3)
    assert models_of(run.broker) == [f"{run.topology.model_blob(run.head.run_id, number)}.1" for number in (3, 4)]
    close_rounds(run, 2)
    assert models_of(run.broker) == [f"{run.topology.model_blob(run.head.run_id, 6)}.1"]


def test_outdated_models_of_an_aggregator_that_was_killed_are_freed(begin: Begin, renaming: Renaming) -> None:
    run = begin(ZERO, inline_cap=0, part_bytes=8, rounds=6)
    close_rounds(run, 2)
    run_id = run.head.run_id
    again = run.crash().start()
    renaming.is_on = False
    try:
        close_rounds(again, 2)
    finally:
        again.aggregator.close()
    assert models_of(run.broker) == [run.topology.model_blob(run_id, number) for number in (4, 5)]


def test_the_model_before_the_final_one_is_freed_after_a_kill_in_between(
    begin: Begin, renaming: Renaming, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = begin(ZERO, inline_cap=0, part_bytes=8, rounds=1)
    with monkeypatch.context() as patch:
        patch.setattr("aggregator.opening.broadcast.Broadcaster._delete_outdated", lambda *args, **kwargs: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            close_rounds(run, 1)
    assert run.head.is_finished
    assert len(models_of(run.broker)) == 2
    again = run.crash().start()
    again.aggregator.close()
    assert models_of(run.broker) == [f"{run.topology.model_blob(run.head.run_id, 2)}.1"]


def test_nothing_is_deleted_that_nobody_wrote(begin: Begin, renaming: Renaming) -> None:
    """Each deletion is a way to the broker and back."""
    renaming.is_on = False
    for inline_cap in (2**20, 0):
        run = begin(ZERO, folder=str(inline_cap), inline_cap=inline_cap, part_bytes=8, rounds=4)
        close_rounds(run, 3)
    names = [name for name, _ in renaming.deleted]
    assert all(was_there for name, was_there in renaming.deleted)
    assert len(names) == len(set(names)) == 2


def test_an_update_in_such_a_blob_counts_and_its_blob_is_freed(begin: Begin, renaming: Renaming) -> None:
    run = begin(ZERO, part_bytes=64)
    for worker in ("a", "b"):
        head = run.update_head(worker, ONE)
        name = run.site.write_blob(run.topology.update_blob(worker, head.run_id, 1), [payload_of(ONE)])
        run.site.send(encode(head.model_copy(update={"blob": BlobRef(name=name, part_bytes=64)})), worker=worker)
    run.settle()
    assert (run.round, run.reasons, run.broker.blobs) == (2, [], {})


def test_what_a_worker_left_that_died_while_it_sent_is_freed(begin: Begin, renaming: Renaming) -> None:
    run = begin(ZERO, inline_cap=0, part_bytes=8)
    run.announce("c", state="sending", round=1)
    half = run.site.write_blob(run.topology.update_blob("c", run.head.run_id, 1), [b"half"])
    assert half.endswith(".1")
    close_rounds(run, 2)
    assert half not in run.broker.blobs


def test_what_a_partial_aggregator_left_that_died_while_it_sent_is_freed(tmp_path: Path, renaming: Renaming) -> None:
    run = ShardedRun.make(tmp_path, quorum="6", rounds=3, inline_cap=0, part_bytes=64).start()
    renaming.is_on = False
    for name in EVERYBODY:
        run.send(name, delta_of(name, 1), num_samples=samples_of(name), blob_bytes=64)
    renaming.is_on = True
    half = run.root.site.write_blob(run.root.topology.partial_blob(1, run.root.head.run_id, 1, 1), [b"half"])
    run.settle()
    run.pass_time()
    assert run.root.round == 2
    assert half not in run.root.broker.blobs


def test_a_simulation_leaves_no_final_model_behind() -> None:
    class Broker:
        """One that has a final model, and removes its queues."""

        deleted: list[str]
        is_removed = False

        def newest_head(self) -> bytes:
            fields = {"run": "r", "run_id": "r.1", "epoch": 1, "round": 3, "num_rounds": 2, "seed": 0}
            blob = BlobRef(name="q.blob.model.r.1.3.1", part_bytes=8)
            return encode(ModelHead(tensors=(), sha256="0" * 64, blob=blob, is_finished=True, **fields))

        def delete_blobs(self, names: Sequence[str]) -> None:
            self.deleted = list(names)

        def remove(self) -> None:
            self.is_removed = True

    broker = Broker()
    _remove_queues(broker)
    assert (broker.deleted, broker.is_removed) == (["q.blob.model.r.1.3.1"], True)
