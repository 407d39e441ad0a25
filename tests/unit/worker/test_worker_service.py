"""The worker: newest model in, update out, over the embedded broker."""

import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from broker.memory import MemoryBroker, MemoryTransport
from broker.states.tensors import State, chunks, digest_of, specs_of, state_from
from broker.transport import Source
from broker.wire.buffers import cut
from broker.wire.codec import decode, encode
from broker.wire.messages import BlobRef, ModelHead, Presence, UpdateHead
from broker.wire.specs import Digest
from broker.wire.topology import Topology
from console.errors import BlobLost, TaskError
from console.watching import Transferring
from learning.task import Plan
from worker.config import WorkerConfig
from worker.events import Event, ModelReceived, RoundLeft, RoundTrained, RunFinished, StateChanged, UpdateSent
from worker.rounds.trainer import derived_seed
from worker.service import Worker

STATE: State = {"weight": torch.tensor([[1.0, 2.0]]), "bias": torch.tensor([0.5])}
TOPOLOGY = Topology("updates")
CONFIG = WorkerConfig(name="site-a", topology=TOPOLOGY, inline_cap=2**20)


class Steps:
    """A task of ten batches: adds 1 to the bias with each, asks whether to go on before, and calls ``between``."""

    def __init__(self) -> None:
        self.plans: list[Plan] = []
        self.between: Callable[[int], object] = lambda step: None
        self.step_of_bias = 1.0

    def model(self) -> nn.Module:
        return nn.Linear(2, 1)

    def train(self, model: nn.Module, plan: Plan) -> Mapping[str, float]:
        self.plans.append(plan)
        for step in range(10):
            if plan.cancelled():
                break
            with torch.no_grad():
                model.bias += self.step_of_bias  # type: ignore[operator]
            plan.progress((step + 1) / 10)
            self.between(step)
        return {"num_samples": 5, "loss": 0.25}

    def evaluate(self, model: nn.Module) -> Mapping[str, float]:
        return {"accuracy": 0.5, "num_samples": 2}


class Site:
    """A worker on a broker of its own, and what an aggregator would do there."""

    def __init__(
        self, make_transport: Callable[[MemoryBroker], MemoryTransport] = MemoryTransport, **changes: Any
    ) -> None:
        self.broker = MemoryBroker()
        self.aggregator = MemoryTransport(self.broker)
        self.task = Steps()
        self.events: list[Event] = []
        self.transport = make_transport(self.broker)
        config = replace(CONFIG, **changes)
        self.worker = Worker(config, self.task, self.transport, on_event=self.events.append)
        self.worker.start()

    @property
    def states(self) -> list[Presence]:
        return [event.presence for event in self.events if isinstance(event, StateChanged)]

    def publish(
        self, round_number: int = 1, *, state: State = STATE, payload: bytes | None = None, **changes: Any
    ) -> None:
        fields = {
            "tensors": specs_of(state),
            "sha256": digest_of(state),
            "run": "demo",
            "run_id": "demo.1",
            "epoch": 1,
            "round": round_number,
            "num_rounds": 9,
            "seed": 3,
        }
        head = ModelHead.model_validate(fields | changes)
        body = b"".join(chunks(state, specs_of(state))) if payload is None else payload
        self.aggregator.broadcast(encode(head, body))

    def updates(self) -> list[UpdateHead]:
        return [decode(body, UpdateHead)[0] for _, body in self.broker.queues[Source.UPDATES]]

    def rounds(self) -> list[int]:
        return [update.round for update in self.updates()]


@pytest.fixture
def site() -> Site:
    return Site()


def test_a_worker_answers_a_model_with_its_delta(site: Site) -> None:
    site.publish()
    assert site.worker.step()
    ((sender, body),) = site.broker.queues[Source.UPDATES]
    head, payload = decode(body, UpdateHead)
    delta = state_from(bytearray(payload), head.tensors)
    assert sender == head.worker == "site-a"
    assert delta["bias"].tolist() == [10.0]
    assert delta["weight"].tolist() == [[0.0, 0.0]]
    assert (head.run_id, head.round, head.num_samples, head.instance) == ("demo.1", 1, 5, site.worker.presence.instance)
    assert head.train_metrics == {"loss": 0.25}
    assert head.eval_metrics == {"accuracy": 0.5, "num_samples": 2.0}
    assert head.sha256 == digest_of(delta)


def test_a_worker_says_how_often_it_speaks_unless_that_is_every_ten_seconds() -> None:
    slow, usual = Site(presence_every_s=60.0), Site(presence_every_s=10.0)
    for site in (slow, usual):
        site.publish()
        site.worker.step()
    assert {presence.every_s for presence in slow.states} == {60.0}
    assert {presence.every_s for presence in usual.states} == {None}
    assert b"every_s" not in usual.broker.queues[Source.PRESENCE][-1][1]


def test_a_worker_without_a_model_waits(site: Site) -> None:
    assert not site.worker.step()
    assert not site.updates()


def test_a_worker_that_starts_late_gets_the_model_that_is_there() -> None:
    broker = MemoryBroker()
    first = Site()
    first.publish(4)
    broker.heads.extend(first.broker.heads)
    broker.num_heads = 1
    worker = Worker(replace(CONFIG, name="late"), Steps(), MemoryTransport(broker))
    worker.start()
    assert worker.step()
    assert len(broker.queues[Source.UPDATES]) == 1


def test_the_plan_is_what_the_aggregator_said_with_the_worker_s_own_seed(site: Site) -> None:
    local = {"epochs": 3, "batch_size": 0, "lr": 0.5, "momentum": 0.25, "mu": 0.125, "max_steps": 7}
    site.publish(2, local=local)
    site.worker.step()
    (plan,) = site.task.plans
    assert {name: getattr(plan, name) for name in local} == local
    assert (plan.round, plan.seed, plan.device) == (2, derived_seed(3, 2, "site-a"), "cpu")


def test_only_the_newest_of_several_models_is_trained(site: Site) -> None:
    for number in (1, 2, 3):
        site.publish(number)
    site.worker.step()
    assert site.rounds() == [3]


def test_a_model_that_was_trained_already_and_older_ones_are_ignored(site: Site) -> None:
    site.publish(3)
    site.worker.step()
    for number in (3, 2, 1):
        site.publish(number)
        site.worker.step()
    assert site.rounds() == [3]


def test_a_zombie_s_model_is_ignored(site: Site) -> None:
    site.publish(3, epoch=2)
    site.worker.step()
    site.publish(4, epoch=1)
    site.worker.step()
    assert site.rounds() == [3]


def test_an_aggregator_that_went_back_a_round_is_followed(site: Site) -> None:
    site.publish(3, epoch=1)
    site.worker.step()
    site.publish(2, epoch=2)
    site.worker.step()
    assert site.rounds() == [3, 2]


def test_a_model_of_another_run_is_trained(site: Site) -> None:
    site.publish(3)
    site.worker.step()
    site.publish(1, run="next", run_id="next.1")
    site.worker.step()
    assert [update.run_id for update in site.updates()] == ["demo.1", "next.1"]


def test_training_stops_when_a_newer_round_is_out_and_sends_nothing_for_the_old_one(site: Site) -> None:
    site.publish(1)
    site.task.between = lambda step: site.publish(2) if step == 3 and len(site.task.plans) == 1 else None
    site.worker.step()
    assert site.rounds() == [2]
    assert len(site.task.plans) == 2


def test_training_goes_on_while_the_update_may_still_count(site: Site) -> None:
    site.publish(1, max_staleness=1)
    site.task.between = lambda step: (
        site.publish(2, max_staleness=1) if step == 3 and len(site.task.plans) == 1 else None
    )
    site.worker.step()
    assert site.rounds() == [1, 2]


def test_training_stops_when_the_update_would_be_too_stale(site: Site) -> None:
    site.publish(1, max_staleness=1)
    site.task.between = lambda step: (
        site.publish(3, max_staleness=1) if step == 3 and len(site.task.plans) == 1 else None
    )
    site.worker.step()
    assert site.rounds() == [3]


def test_training_stops_when_the_run_is_finished_and_the_worker_leaves(site: Site) -> None:
    site.publish(1)
    site.task.between = lambda step: site.publish(2, is_finished=True) if step == 3 else None
    site.worker.run()
    assert site.worker.is_finished
    assert site.rounds() == []
    assert site.states[-1].state == "leaving"


def test_training_stops_when_the_worker_is_told_to_stop(site: Site) -> None:
    site.publish(1)
    site.task.between = lambda step: site.worker.stop() if step == 3 else None
    site.worker.run()
    assert not site.worker.is_finished
    assert site.rounds() == []
    assert site.states[-1].state == "leaving"


def test_a_worker_leaves_when_the_run_is_finished_before_it_came(site: Site) -> None:
    site.publish(9, is_finished=True)
    site.worker.run()
    assert site.worker.is_finished
    assert not site.task.plans


def test_a_worker_of_one_run_waits_for_it_and_says_so_once(caplog: pytest.LogCaptureFixture) -> None:
    site = Site(run="mine")
    with caplog.at_level(logging.INFO):
        for number in (1, 2):
            site.publish(number)
            site.worker.step()
        site.publish(3, is_finished=True)
        site.worker.step()
    assert not site.worker.is_finished
    assert site.rounds() == []
    assert caplog.text.count("waiting for run 'mine'") == 1
    site.publish(1, run="mine", run_id="mine.1")
    site.worker.step()
    assert site.rounds() == [1]


def test_a_name_conflict_is_told_once(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    for number in (1, 1, 2):
        site.publish(number, name_conflicts=("other", "site-a"))
        site.worker.step()
    assert caplog.text.count("goes by the name 'site-a' too") == 1
    assert site.rounds() == [1, 2]


def test_a_conflict_of_others_is_none_of_ours(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    site.publish(1, name_conflicts=("other",))
    site.worker.step()
    assert "goes by the name" not in caplog.text


def test_a_conflict_told_in_mid_training_does_not_disturb_it(site: Site) -> None:
    site.publish(1)
    site.task.between = lambda step: site.publish(1, name_conflicts=("site-a",)) if step == 3 else None
    site.worker.step()
    site.worker.step()
    assert site.rounds() == [1]
    assert len(site.task.plans) == 1


def test_a_model_with_sets_of_tensors_that_nobody_here_knows_is_not_trained(site: Site) -> None:
    site.publish(sets=("control",))
    with pytest.raises(TaskError, match=r"sets of tensors that this fedmq does not know: control; install the version"):
        site.worker.step()


def test_a_model_of_another_task_is_the_task_s_error(site: Site) -> None:
    site.publish(state={"w": torch.zeros(3)})
    with pytest.raises(TaskError, match=r"the model of run demo\.1 has no tensor 'bias'; is --task the one"):
        site.worker.step()


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"payload": b""}, "payload has 0 bytes; its tensors need 12"),
        ({"payload": bytes(13)}, "payload has 13 bytes"),
        ({"sha256": "0" * 64}, "digest"),
        ({"state": STATE | {"bias": torch.tensor([float("nan")])}}, "NaN or infinity in 'bias'"),
    ],
)
def test_a_bad_model_is_dropped_with_a_warning_and_the_next_one_is_trained(
    site: Site, caplog: pytest.LogCaptureFixture, changes: dict[str, Any], told: str
) -> None:
    site.publish(1, **changes)
    site.worker.step()
    assert told in caplog.text
    assert site.rounds() == []
    site.publish(2)
    site.worker.step()
    assert site.rounds() == [2]


def test_rubbish_on_the_model_stream_is_dropped_with_a_warning(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    site.aggregator.broadcast(b"rubbish")
    site.worker.step()
    assert "a message on the model stream is dropped: not a fedmq message" in caplog.text
    site.publish(1)
    site.worker.step()
    assert site.rounds() == [1]


def in_blob(site: Site, parts: list[bytes] | None, **changes: Any) -> None:
    blob = BlobRef(name=TOPOLOGY.model_blob("demo.1", 1), part_bytes=8)
    if parts is not None:
        site.aggregator.write_blob(blob.name, parts)
    site.publish(1, blob=blob, payload=b"", **changes)


def parts_of(state: State) -> list[bytes]:
    return list(cut(chunks(state, specs_of(state)), 8))


def transfers(site: Site) -> list[tuple[str, bool, int, int]]:
    return [
        (event.what, event.is_upload, event.num_bytes, event.total_bytes)
        for event in site.events
        if isinstance(event, Transferring)
    ]


def test_a_model_in_a_blob_is_read(site: Site) -> None:
    in_blob(site, parts_of(STATE))
    site.worker.step()
    assert site.rounds() == [1]
    assert transfers(site) == [("model of round 1", False, 0, 12), ("model of round 1", False, 12, 12)]


@pytest.mark.parametrize(
    "parts",
    [None, [], parts_of(STATE)[:1], [b"", b""], [bytes(8), bytes(8)], [bytes(9), bytes(3)], [bytes(8), bytes(4)]],
)
def test_a_model_whose_blob_is_gone_or_broken_is_dropped(site: Site, parts: list[bytes] | None) -> None:
    in_blob(site, parts)
    site.worker.step()
    assert site.rounds() == []
    site.publish(2)
    site.worker.step()
    assert site.rounds() == [2]


def test_an_update_above_the_inline_cap_goes_into_a_blob_of_its_own() -> None:
    site = Site(inline_cap=8)
    site.publish(2)
    site.worker.step()
    (update,) = site.updates()
    assert update.blob is not None
    assert update.blob.name == TOPOLOGY.update_blob("site-a", "demo.1", 2)
    delta = state_from(bytearray(b"".join(site.broker.blobs[update.blob.name])), update.tensors)
    assert delta["bias"].tolist() == [10.0]
    assert digest_of(delta) == update.sha256
    assert transfers(site) == [("update for round 2", True, 0, 12), ("update for round 2", True, 12, 12)]


@pytest.mark.parametrize(("own", "told", "is_blob"), [(0, 2**20, False), (2**20, 0, True), (0, None, True)])
def test_a_worker_goes_by_the_inline_cap_of_the_run(own: int, told: int | None, is_blob: bool) -> None:
    site = Site(inline_cap=own)
    site.publish(2, inline_cap=told)
    site.worker.step()
    (update,) = site.updates()
    assert (update.blob is not None) == bool(site.broker.blobs) == is_blob
    site.publish(3, inline_cap=told, is_finished=True)
    site.worker.step()
    assert site.broker.blobs == {}


@pytest.mark.parametrize("inline_cap", [0, 1, 7, 8, 9, 11])
def test_any_inline_cap_that_settings_allow_makes_parts_that_the_wire_allows(inline_cap: int) -> None:
    site = Site(inline_cap=inline_cap)
    site.publish(1)
    site.worker.step()
    (update,) = site.updates()
    assert update.blob is not None
    assert update.blob.num_parts(update.num_bytes) == len(site.broker.blobs[update.blob.name])


def test_a_training_that_diverges_sends_nothing_and_the_next_round_is_tried(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    site.task.step_of_bias = float("inf")
    site.publish(1)
    site.worker.step()
    assert "round   1: no update of 'site-a': training gave NaN or infinity in 'bias'" in caplog.text
    site.task.step_of_bias = 1.0
    site.publish(2)
    site.worker.step()
    assert site.rounds() == [2]


def test_a_worker_says_what_it_is_doing(site: Site) -> None:
    site.publish(1)
    site.worker.step()
    assert [(presence.state, presence.round) for presence in site.states] == [
        ("idle", 0),
        ("training", 1),
        ("sending", 1),
        ("idle", 1),
    ]
    announced = [decode(body, Presence)[0] for _, body in site.broker.queues[Source.PRESENCE]]
    assert announced == site.states
    assert {presence.instance for presence in announced} == {site.worker.presence.instance}


def test_a_sign_of_life_in_mid_training_tells_the_progress(site: Site) -> None:
    seen: list[Presence] = []
    site.task.between = lambda step: seen.append(site.worker.presence)
    site.publish(1)
    site.worker.step()
    assert [presence.progress for presence in seen] == [pytest.approx((step + 1) / 10) for step in range(10)]
    assert site.worker.presence.progress == 0.0


@pytest.mark.parametrize(
    ("fraction", "told"),
    [(-1.0, 0.0), (2.0, 1.0), (float("nan"), 0.0), (float("inf"), 1.0), (-float("inf"), 0.0)],
)
def test_a_task_s_odd_progress_is_told_as_one_between_none_and_all(site: Site, fraction: float, told: float) -> None:
    site.task.between = lambda step: (site.task.plans[-1].progress(fraction), site.worker.announce())
    site.publish(1)
    site.worker.step()
    announced = [decode(body, Presence)[0] for _, body in site.broker.queues[Source.PRESENCE]]
    in_training = [presence.progress for presence in announced if presence.state == "training"]
    assert in_training == [0.0, *[told] * 10]


def test_two_workers_of_one_name_are_two_instances() -> None:
    assert Site().worker.presence.instance != Site().worker.presence.instance


@pytest.mark.parametrize("suffix", ["", ".1", ".9"])
@pytest.mark.parametrize("is_restarted", [False, True])
def test_a_worker_deletes_the_blob_of_an_update_that_came_after_the_end(
    is_restarted: bool, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = MemoryTransport.write_blob
    monkeypatch.setattr(MemoryTransport, "write_blob", lambda self, name, parts: write(self, name + suffix, parts))
    site = Site(inline_cap=8)
    name = TOPOLOGY.update_blob("site-a", "demo.1", 2)
    if is_restarted:
        site.transport.write_blob(name, [b"sent before it was killed"])
    else:
        site.publish(2)
        site.worker.step()
    assert set(site.broker.blobs) == {name + suffix}

    site.publish(3, is_finished=True)
    site.worker.step()

    assert site.worker.is_finished
    assert site.broker.blobs == {}


def test_a_worker_keeps_the_blob_of_an_update_that_a_longer_run_may_still_fold() -> None:
    site = Site(inline_cap=8)
    site.publish(2, max_staleness=1)
    site.worker.step()
    site.publish(3, max_staleness=1, is_finished=True)
    site.worker.step()
    assert site.worker.is_finished
    assert set(site.broker.blobs) == {TOPOLOGY.update_blob("site-a", "demo.1", 2)}


def test_a_worker_keeps_the_blob_of_another_run() -> None:
    site = Site(inline_cap=8)
    site.publish(2)
    site.worker.step()
    site.publish(9, run_id="demo.2", is_finished=True)
    site.worker.step()
    assert set(site.broker.blobs) == {TOPOLOGY.update_blob("site-a", "demo.1", 2)}


def test_who_looks_on_hears_of_each_round_and_of_the_end(site: Site) -> None:
    site.publish(1)
    site.worker.step()
    site.task.between = lambda step: site.publish(3, is_finished=True)
    site.publish(2)
    site.worker.step()

    def told(kind: type) -> list[Any]:
        return [event for event in site.events if isinstance(event, kind)]

    assert [event.head.round for event in told(ModelReceived)] == [1, 2]
    (trained,), (sent,), (left,), (finished,) = map(told, (RoundTrained, UpdateSent, RoundLeft, RunFinished))
    assert (trained.round, trained.num_samples, trained.metrics["loss"]) == (1, 5, 0.25)
    assert (sent.round, sent.num_bytes) == (1, len(site.broker.queues[Source.UPDATES][0][1]))
    assert left.round == 2
    assert "is over" in left.reason
    assert (finished.run_id, finished.num_rounds) == ("demo.1", 2)


class Forgetful(MemoryTransport):
    """A broker that is killed in the middle of so many uploads, and forgets them."""

    num_to_lose = 0

    def write_blob(self, name: str, parts: Iterable[bytes]) -> str:
        if self.num_to_lose:
            self.num_to_lose -= 1
            next(iter(parts))
            raise BlobLost(f"blob {name} was deleted while it was being written")
        return super().write_blob(name, parts)


def site_whose_uploads_are_lost(num_to_lose: int) -> Site:
    def forgetful(broker: MemoryBroker) -> Forgetful:
        transport = Forgetful(broker)
        transport.num_to_lose = num_to_lose
        return transport

    site = Site(forgetful, inline_cap=0)
    site.publish(1)
    return site


def test_an_update_whose_blob_is_lost_on_the_way_is_sent_again_while_its_round_is_open() -> None:
    site = site_whose_uploads_are_lost(2)
    site.worker.step()
    (update,) = site.updates()
    assert update.blob is not None
    digest = Digest(update.tensors)
    for part in site.broker.blobs[update.blob.name]:
        digest.add(part)
    assert digest.hex() == update.sha256


@pytest.mark.parametrize("inline_cap", [0, 2**20])
def test_an_update_is_digested_by_the_function_of_its_model(inline_cap: int) -> None:
    site = Site(inline_cap=inline_cap)
    digest = Digest(specs_of(STATE), "blake3")
    digest.add(b"".join(chunks(STATE, specs_of(STATE))))
    site.publish(1, sha256="0" * 64, blake3=digest.hex())  # the other one is not looked at
    site.worker.step()
    ((_, body),) = site.broker.queues[Source.UPDATES]
    update, payload = decode(body, UpdateHead)
    sent = Digest(update.tensors, "blake3")
    sent.add(payload if update.blob is None else b"".join(site.broker.blobs[update.blob.name]))
    assert (update.sha256, update.blake3) == (None, sent.hex())
    assert (update.blob is None) == (inline_cap > 0)


def test_a_model_that_is_not_of_its_blake3_is_not_trained_from() -> None:
    site = Site()
    site.publish(1, blake3="0" * 64)
    site.worker.step()
    assert site.updates() == []


def test_an_update_whose_blob_is_lost_is_given_up_once_its_round_is_over() -> None:
    site = site_whose_uploads_are_lost(1)
    site.task.between = lambda step: site.publish(2) if step == 9 and len(site.task.plans) == 1 else None
    site.worker.step()
    assert site.rounds() == [2]
    assert [event.round for event in site.events if isinstance(event, RoundLeft)] == [1]


class Late:
    """A worker that starts when the run is finished, with a clock of its own."""

    def __init__(self, **changes: Any) -> None:
        self.now = 100.0
        self.site = Site()
        self.site.publish(3, is_finished=True)
        config = replace(CONFIG, name="late", **changes)
        self.task = Steps()
        transport = MemoryTransport(self.site.broker)
        self.worker = Worker(config, self.task, transport, clock=lambda: self.now)
        self.worker.start()
        while self.worker.step():
            pass

    def waits(self, seconds: float) -> bool:
        """Whether it is still there afterwards."""
        self.now += seconds
        self.worker.step()
        return not self.worker.is_finished

    @property
    def rounds(self) -> list[int]:
        return [plan.round for plan in self.task.plans]


def test_a_worker_that_finds_a_finished_run_waits_for_an_aggregator_that_goes_on(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.INFO):
        late = Late(grace_s=15.0)
    assert "waiting 15 s for an aggregator that goes on, then leaving; --stay waits for longer" in caplog.text
    assert late.waits(14.9)
    late.site.publish(3, epoch=2, num_rounds=12)
    assert late.waits(100)
    assert late.rounds == [3]
    late.site.publish(4, epoch=2, is_finished=True)
    assert not late.waits(0), "it took part, and has nothing to wait for"


def test_a_worker_that_finds_a_finished_run_leaves_when_nothing_comes() -> None:
    late = Late(grace_s=15.0)
    assert late.waits(14.9)
    assert not late.waits(0.2)
    late = Late(grace_s=15.0)
    late.now += 15.0
    late.worker.run()
    assert late.worker.is_finished


def test_a_worker_that_is_to_stay_waits_for_the_next_run() -> None:
    late = Late(stays=True)
    assert late.waits(10_000)
    late.site.publish(1, run_id="demo.2")
    assert late.waits(0)
    late.site.publish(2, run_id="demo.2", is_finished=True)
    assert late.waits(10_000)
    assert late.rounds == [1]
