"""Whole runs of real workers on the embedded broker: with a roster and sealed updates, nothing else comes out."""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from unit.aggregator.embedded_run import EmbeddedRun
from unit.aggregator.sharded_run import FLUSH_S, ShardedRun, names_of
from unit.members import FEDERATION, PARTIALS, SEALED, SIGNED, UNSIGNED, Noise, member

from aggregator.partial import PartialAggregator
from aggregator.watchers.status import StatusBoard
from broker.memory import MemoryTransport
from broker.states.tensors import State
from broker.transport import Source
from broker.wire.codec import decode_from, encode
from broker.wire.messages import PartialHead, Protection, Status
from console.errors import BrokerError
from identities.in_memory import AGGREGATOR, InMemory, in_memory
from identities.membership import Membership
from identities.sealing import Sealing
from operations.snapshot import take_snapshot
from operations.status_view import plain
from worker.config import WorkerConfig
from worker.policy import WorkerPolicy
from worker.service import Worker

INITIAL: State = {"w": torch.linspace(-1, 1, 6000).reshape(60, 100), "b": torch.zeros(100)}
NOBODY = Membership()


@dataclass
class Whole:
    """A root, its partials if there are any, and workers, which take turns."""

    root: EmbeddedRun
    partials: Sequence[PartialAggregator]
    workers: Sequence[Worker]

    def play(self, *, most: int = 1000) -> None:
        """To the end of the run, or until nothing comes any more."""
        for _ in range(most):
            busy = [worker.step() for worker in self.workers if not worker.is_finished]
            busy += [partial.step(0) for partial in self.partials if not partial.is_finished]
            while self.root.aggregator.is_running and self.root.aggregator.step(0):
                busy.append(True)
            if not any(busy):
                if self.root.aggregator.is_finished or not self.partials:
                    return
                self.root.clock.now += FLUSH_S
        raise AssertionError("still busy")


@contextmanager
def whole(
    folder: Path,
    names: Sequence[str],
    *,
    federation: InMemory | None = None,
    protection: tuple[Protection, ...] = SEALED,
    policies: dict[str, WorkerPolicy] | None = None,
    shards: int = 0,
    **settings: Any,
) -> Iterator[Whole]:
    """A run of these workers; without a federation, nobody signs anything."""

    def membership(name: str) -> Membership:
        if federation is None:
            return NOBODY
        opening = federation.keys[AGGREGATOR].opening
        private = [opening] if opening is not None and name in (AGGREGATOR, *PARTIALS) else []
        return Membership(federation.trust(name), Sealing(lambda: federation.roster.opening_key, private), protection)

    fields = {"quorum": str(len(names)), "shards": shards} | settings
    root = EmbeddedRun.make(folder, Noise(INITIAL), membership=membership(AGGREGATOR), **fields)
    sharded = ShardedRun(root, [])
    partials = [sharded.partial(index, membership=membership(PARTIALS[index])) for index in range(shards)]
    workers = [
        Worker(
            WorkerConfig(
                name=name,
                topology=root.topology,
                inline_cap=root.settings.inline_cap,
                membership=membership(name),
                policy=(policies or {}).get(name, WorkerPolicy()),
            ),
            Noise(INITIAL, num_samples=10 + index),
            MemoryTransport(root.broker),
        )
        for index, name in enumerate(names)
    ]
    for each in (*partials, root, *workers):
        each.start()
    try:
        yield Whole(root, partials, workers)
    finally:
        root.aggregator.close()


FORMS: list[dict[str, Any]] = [
    {},
    {"inline_cap": 0, "part_bytes": 4096},
    {"compression": "int8", "zstd": 3},
    {"compression": "int8", "zstd": 3, "inline_cap": 0, "part_bytes": 1024},
    {"compression": "topk:0.05", "zstd": 3},
    {"compression": "topk:0.05", "zstd": 3, "inline_cap": 0, "part_bytes": 256},
    {"shards": 2},
    {"shards": 2, "inline_cap": 0, "part_bytes": 4096},
    {"shards": 2, "inline_cap": 0, "part_bytes": 1024, "compression": "int8", "zstd": 3},
]


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_a_run_with_sealed_updates_ends_with_the_digest_of_the_same_run_in_clear(
    tmp_path: Path, form: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    names = [name for shard in (0, 1) for name in names_of(shard, 2)]
    digests = []
    for federation in (None, in_memory(names, partials=PARTIALS)):
        with whole(tmp_path / str(len(digests)), names, federation=federation, **form) as run:
            seen = run.root.head.protection
            run.play()
            assert run.root.aggregator.is_finished
            digests.append(run.root.summary["final"]["model_sha256"])
            assert seen == (SEALED if federation else ())
            assert run.root.query("SELECT DISTINCT verdict FROM updates") == [("folded",)]
            assert run.root.query("SELECT count(*) FROM updates") == [(3 * len(names),)]
    assert digests[0] == digests[1]
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


def test_partial_sums_are_sealed_and_signed_by_their_partial(tmp_path: Path) -> None:
    names = [name for shard in (0, 1) for name in names_of(shard, 2)]
    federation = in_memory(names, partials=PARTIALS)
    with whole(tmp_path, names, federation=federation, shards=2) as run:
        run.root.settle()
        for each in run.partials:
            each.step(0)
        for worker in run.workers:
            worker.step()
        run.root.clock.now += FLUSH_S
        for each in (*run.partials, *run.partials):
            while each.step(0):
                pass
        run.root.clock.now += FLUSH_S
        for each in run.partials:
            each.step(0)
        sums = [body for sender, body in run.root.broker.queues[Source.UPDATES] if sender.startswith("partial.")]
        heads = [decode_from(body, PartialHead, trust=federation.trust()) for body in sums]
        assert {(str(message.signer), message.header.sealed is not None) for message in heads} == {
            ("partial shard-0", True),
            ("partial shard-1", True),
        }
        # one that is not signed, one by a site, and one sealed as another's
        forged = [
            encode(heads[0].header, heads[0].payload),
            encode(heads[0].header, heads[0].payload, trust=federation.trust(names[0])),
            encode(
                heads[0].header.model_copy(update={"sequence": 7}), heads[0].payload, trust=federation.trust("shard-0")
            ),
        ]
        waiting = run.root.broker.queues[Source.UPDATES].copy()
        run.root.broker.queues[Source.UPDATES].clear()
        for body in forged:
            run.root.site.send_partial(body, shard=0)
        run.root.settle()
        assert run.root.num_folded == 0
        for reason, expected in zip(run.root.reasons, ("is not signed", "may not send a partial", "open"), strict=True):
            assert expected in reason
        run.root.broker.queues[Source.UPDATES].extend(waiting)
        run.root.settle()
        assert run.root.round == 2


@pytest.mark.parametrize("body", [b"garbage", b""])
def test_a_partial_aggregator_hears_a_site_whatever_others_send_in_its_name(tmp_path: Path, body: bytes) -> None:
    names = names_of(0, 2)
    federation = in_memory(names, partials=PARTIALS)
    with whole(tmp_path, names, federation=federation, shards=2) as run:
        for each in run.partials:
            each.step(0)
        for _ in range(50):
            run.root.site.send(body, worker=names[0], num_shards=2)
        run.play()
        assert run.root.aggregator.is_finished
        assert run.root.query("SELECT count(*) FROM updates WHERE verdict = 'folded'") == [(3 * len(names),)]


def test_a_partial_aggregator_holds_back_no_update_that_its_sender_has_not_signed(tmp_path: Path) -> None:
    names = names_of(0, 2)
    federation = in_memory(names, partials=PARTIALS)
    with whole(tmp_path, names, federation=federation, shards=2) as run:
        partial = run.partials[0]
        partial.step(0)
        delta = {name: torch.zeros_like(tensor) for name, tensor in INITIAL.items()}
        head = run.root.update_head(names[0], delta, round=2**39)
        for trust in (UNSIGNED, federation.trust(names[1])):
            run.root.site.send(encode(head, b"", trust=trust), worker=names[0], num_shards=2)
        while partial.step(0):
            pass
        assert not partial._early
        run.root.clock.now += FLUSH_S
        partial.step(0)
        assert not partial._passed_early


# -- a site that asks for more than the run does --------------------------------------------------------------


def test_a_site_that_asks_for_more_than_the_run_is_heard_once_and_nobody_waits_for_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    names = ("hospital-a", "hospital-b")
    policies = {"hospital-b": WorkerPolicy(require=frozenset(SEALED))}
    board = StatusBoard()
    fields = {"protection": SIGNED, "policies": policies, "quorum": "100%", "deadline_s": None}
    with whole(tmp_path, names, federation=FEDERATION, on_event=board.on_event, **fields) as run:
        run.workers[1].step()  # it is heard before the other one, which ends the run, has answered
        run.root.settle()
        status = board.status()
        assert status is not None
        run.root.site.send_status(encode(status, trust=FEDERATION.trust(AGGREGATOR)))
        snapshot = take_snapshot(run.root.site, run.root.topology, FEDERATION.trust())
        assert "hospital-b does not answer: updates of this run are not sealed, which --require asks for" in plain(
            snapshot
        )
        run.play()
        assert run.root.aggregator.is_finished
        assert run.root.query("SELECT DISTINCT worker, verdict FROM updates") == [("hospital-a", "folded")]
    said = [record.getMessage() for record in caplog.records if "does not answer" in record.getMessage()]
    assert said == ["worker 'hospital-b' does not answer: updates of this run are not sealed, which --require asks for"]


def test_a_status_that_no_aggregator_signed_is_refused(tmp_path: Path) -> None:
    run = EmbeddedRun.make(tmp_path, Noise(INITIAL), membership=member(AGGREGATOR)).start()
    status = Status(
        run="demo",
        run_id="demo.1",
        state="finished",
        sent_at=1.0,
        round=3,
        num_rounds=3,
        num_folded=0,
        target=0,
        num_present=0,
    )
    for trust, reason in ((UNSIGNED, "is not signed"), (FEDERATION.trust("hospital-a"), "may not send a status")):
        run.site.send_status(encode(status, trust=trust))
        with pytest.raises(BrokerError, match=f"is not an aggregator's: .*{reason}"):
            take_snapshot(run.site, run.topology, FEDERATION.trust())
    run.site.send_status(encode(status, trust=FEDERATION.trust(AGGREGATOR)))
    assert take_snapshot(run.site, run.topology, FEDERATION.trust()).status == status
    run.aggregator.close()


@pytest.mark.parametrize("shards", [0, 2])
def test_workers_that_sign_only_measure_a_model_also_by_way_of_partials(tmp_path: Path, shards: int) -> None:
    names = ("a", "b", "c")
    save_file(INITIAL, tmp_path / "model.safetensors")
    with whole(
        tmp_path / "run",
        names,
        federation=in_memory(names, partials=PARTIALS),
        shards=shards,
        evaluate_only=True,
        init=tmp_path / "model.safetensors",
    ) as run:
        run.play()
        assert run.root.aggregator.is_finished
        assert sorted(run.root.verdicts()) == [(name, "measured") for name in names]
        assert all(worker.is_finished for worker in run.workers)
