"""A worker of a run that masks updates: what it sends, to whom it seals seeds, and what it does not answer."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn
from unit.aggregator.embedded_run import Holder

from broker.memory import MemoryBroker, MemoryTransport
from broker.states import MaskedEncoding, State, chunks, digest_of, specs_of
from broker.states.tensors import state_from
from broker.transport import Source
from broker.wire import (
    EXTRA_STEP,
    EXTRAS,
    Compression,
    DifferentialPrivacy,
    Digest,
    Masking,
    ModelHead,
    Reply,
    SealedSeed,
    Specs,
    Topology,
    UpdateHead,
    decode_from,
    encode,
    mask_sizes,
    name_of_masked,
)
from console import BlobLost, SettingsError
from identities import Membership, Sealing, in_memory
from identities.in_memory import AGGREGATOR
from learning import Plan
from privacy import Mask
from worker.config import WorkerConfig
from worker.policy import WorkerPolicy
from worker.rounds.trainer import derived_seed
from worker.service import Worker
from worker.state import OnDisk, OwnNoise, Store

SITE, KEEPERS = "hospital-a", ("ethics", "it")
FEDERATION = in_memory([SITE, "hospital-b", "hospital-c"], keepers=KEEPERS, federation="heart")
STATE: State = {"w": torch.tensor([[1.0, 2.0], [3.0, 4.0]]), "b": torch.tensor([0.5])}
NUM_SAMPLES, LOSS = 123457, 0.731058578
"""Planted: they are to be found nowhere."""
RING64 = Masking(step=2.0**-32, most=2.0**30, min_sites=3, keepers=KEEPERS[:1], metrics=("train.loss", "eval.accuracy"))
RING32 = RING64.model_copy(update={"bits": 32, "step": 2.0**-12, "most": 2.0**16})
NOISED = DifferentialPrivacy(clip=1.0, noise=4.0, epsilon=8.0, delta=1e-5, where="keeper")


class Tells:
    """A task that adds normal numbers that follow from the plan's seed, and has something to tell."""

    def __init__(self, factor: float = 0.1) -> None:
        self.factor = factor

    def model(self) -> nn.Module:
        return Holder(STATE)

    def train(self, model: nn.Module, plan: Plan) -> Mapping[str, float]:
        for name, delta in drawn(plan.seed, self.factor).items():
            dict(model.named_parameters())[name].data += delta
        return {"num_samples": NUM_SAMPLES, "loss": LOSS}

    def evaluate(self, model: nn.Module) -> Mapping[str, float]:
        return {"num_samples": NUM_SAMPLES, "accuracy": LOSS}


def drawn(seed: int, factor: float = 0.1) -> State:
    random = torch.Generator().manual_seed(seed)
    return {name: factor * torch.randn(tensor.shape, generator=random) for name, tensor in STATE.items()}


def trained(round_number: int, *, factor: float = 0.1) -> State:
    """The delta of a round, as float32 has it."""
    added = drawn(derived_seed(3, round_number, SITE), factor)
    return {name: (STATE[name] + added[name]) - STATE[name] for name in STATE}


@dataclass
class Sent:
    """An update and its seeds, as a keeper opens them."""

    head: UpdateHead
    body: bytes
    message: bytes

    def seed(self, keeper: str, place: int = 0) -> bytes:
        opening = FEDERATION.keys[keeper].opening
        assert opening is not None
        return Sealing(private=[opening]).open_seed(self.sealed(place))

    def sealed(self, place: int = 0) -> SealedSeed:
        message = decode_from(self.head.seeds[place], SealedSeed, trust=FEDERATION.trust())
        message.check_signer(SITE)
        return message.header

    def integers(self, keepers: tuple[str, ...]) -> dict[str, NDArray[Any]]:
        """Without the masks."""
        num_words, _ = mask_sizes(self.head.tensors)
        body = bytearray(self.body)
        words = np.frombuffer(body, np.uint64, num_words)
        halves = np.frombuffer(body, np.uint32, offset=8 * num_words)
        for place, keeper in enumerate(keepers):
            taken = (np.zeros_like(words), np.zeros_like(halves))
            mask = Mask(self.seed(keeper, place))
            mask.add_to(taken[0], 0)
            mask.add_to(taken[1], 8 * num_words)
            words -= taken[0]
            halves -= taken[1]
        return {name: tensor.numpy() for name, tensor in state_from(body, self.head.tensors).items()}


@dataclass
class Site:
    """hospital-a's worker on a broker of the test's own."""

    membership: Membership = field(default_factory=lambda: Membership(FEDERATION.trust(SITE), protection=("signed",)))
    policy: WorkerPolicy = field(default_factory=WorkerPolicy)
    carried: Store | None = None
    noise: OwnNoise | None = None
    task: Tells = field(default_factory=Tells)
    inline_cap: int = 2**20
    broker: MemoryBroker = field(default_factory=MemoryBroker)

    def __post_init__(self) -> None:
        self.outside = MemoryTransport(self.broker)
        self.transport = MemoryTransport(self.broker)
        config = WorkerConfig(
            name=SITE,
            topology=Topology("updates"),
            inline_cap=self.inline_cap,
            membership=self.membership,
            policy=self.policy,
        )
        self.worker = Worker(config, self.task, self.transport, carried=self.carried, noise=self.noise)
        self.worker.start()

    def publish(self, round_number: int = 1, **changes: Any) -> None:
        """Has the worker see a head of the aggregator's."""
        fields = {
            "tensors": specs_of(STATE),
            "sha256": digest_of(STATE),
            "run": "demo",
            "run_id": "demo.1",
            "epoch": 1,
            "round": round_number,
            "num_rounds": 9,
            "seed": 3,
            "protection": ("signed",),
            "began_at": 1.8e9,
            "masking": RING64,
        }
        head = ModelHead.model_validate(fields | changes)
        payload = b"".join(chunks(STATE, specs_of(STATE)))
        self.outside.broadcast(encode(head, payload, trust=FEDERATION.trust(AGGREGATOR)))
        self.worker.step()

    def sent(self) -> Sent:
        message = bytes(self.broker.queues[Source.UPDATES].popleft()[1])
        update = decode_from(message, UpdateHead, trust=FEDERATION.trust())
        blob = update.header.blob
        body = b"".join(self.broker.blobs[blob.name]) if blob else bytes(update.payload)
        return Sent(update.header, body, message)

    def answer(self, round_number: int = 1, **changes: Any) -> Sent:
        self.publish(round_number, **changes)
        return self.sent()

    def objection(self, **changes: Any) -> str:
        self.publish(**changes)
        assert not self.broker.queues[Source.UPDATES]
        assert self.worker.presence.objection is not None
        return self.worker.presence.objection


def encoded(masking: Masking) -> Specs:
    return MaskedEncoding(specs_of(STATE), masking).encoded


@pytest.mark.parametrize("masking", [RING64, RING32])
def test_without_its_mask_an_update_is_the_delta_times_its_samples_cut_towards_zero(masking: Masking) -> None:
    sent = Site().answer(masking=masking)
    assert sent.head.tensors == encoded(masking)
    integers = sent.integers(KEEPERS[:1])
    for name, delta in trained(1).items():
        wanted = np.trunc(delta.numpy().astype(np.float64) * NUM_SAMPLES / masking.step)
        assert integers[name].tolist() == wanted.tolist()
    said = integers[EXTRAS] * EXTRA_STEP
    assert said.tolist() == pytest.approx(
        [NUM_SAMPLES, *2 * [NUM_SAMPLES, NUM_SAMPLES * LOSS]],
        abs=EXTRA_STEP,
    )


def test_a_model_that_has_another_digest_than_the_one_that_seeds_name_it_by_is_not_answered() -> None:
    """An aggregator could send another model to each, and single one of them out, unseen by the keepers."""
    digest = Digest(specs_of(STATE), "blake3")
    digest.add(b"".join(chunks(STATE, specs_of(STATE))))
    site = Site()
    site.publish(sha256="ab" * 32, blake3=digest.hex())
    assert not site.broker.queues[Source.UPDATES]
    assert Site().answer(blake3=digest.hex()).head.model_sha256 == digest_of(STATE)


def test_the_weight_is_limited_or_one_as_the_head_says() -> None:
    limited = Site().answer(masking=RING64.model_copy(update={"most_samples": 1000}))
    assert limited.integers(KEEPERS[:1])[EXTRAS][0] * EXTRA_STEP == 1000
    uniform = Site().answer(weighting="uniform").integers(KEEPERS[:1])
    assert uniform[EXTRAS][0] * EXTRA_STEP == 1
    assert uniform["b"].tolist() == np.trunc(trained(1)["b"].double().numpy() * 2**32).tolist()


def test_an_update_says_nothing_of_its_site() -> None:
    """Neither its header nor any bytes that were sent, in any form in which numbers travel; a plain one says it all."""
    site = Site()
    sent = site.answer()
    head = sent.head
    assert (head.num_samples, head.train_s, head.figures) == (1, 0.0, {})
    assert (head.train_metrics, head.eval_metrics, head.train_not_finite, head.eval_not_finite) == ({}, {}, {}, {})
    plain = Site().answer(masking=None)
    assert found_in(plain.message)
    assert not found_in(sent.message)
    assert not any(found_in(bytes(message)) for queue in site.broker.queues.values() for _, message in queue)


def found_in(message: bytes) -> bool:
    forms = [
        np.array(number, dtype).tobytes() for number in (NUM_SAMPLES, NUM_SAMPLES * 2**20) for dtype in ("<i8", ">i8")
    ]
    forms += [np.array(NUM_SAMPLES, dtype).tobytes() for dtype in ("<i4", ">i4", "<f8", ">f8", "<f4", ">f4")]
    forms += [np.array(LOSS, dtype).tobytes() for dtype in ("<f8", ">f8", "<f4", ">f4")]
    forms += [str(NUM_SAMPLES).encode(), f"{LOSS:.4f}".encode()]
    return any(form in message for form in forms)


def test_an_answer_without_an_update_says_nothing_either() -> None:
    site = Site(task=Tells(factor=float("nan")))
    site.publish(replies=("diverged", "measured"))
    reply = decode_from(site.broker.queues[Source.UPDATES].popleft()[1], Reply, trust=FEDERATION.trust()).header
    assert (reply.outcome, reply.train_s, reply.eval_metrics, reply.eval_not_finite) == ("diverged", 0.0, {}, {})
    assert str(NUM_SAMPLES) not in str(reply.reason)
    site.publish(2, replies=("diverged", "measured"), only_evaluate=True)
    reply = decode_from(site.broker.queues[Source.UPDATES].popleft()[1], Reply, trust=FEDERATION.trust()).header
    assert (reply.outcome, reply.eval_metrics) == ("measured", {})


def test_each_keeper_has_a_seed_of_its_own_that_it_alone_opens() -> None:
    masking = RING64.model_copy(update={"keepers": KEEPERS})
    sent = Site(policy=WorkerPolicy(min_sites=2)).answer(masking=masking)
    first, second = sent.seed(KEEPERS[0], 0), sent.seed(KEEPERS[1], 1)
    assert first != second
    for keeper, place in ((KEEPERS[0], 1), (KEEPERS[1], 0)):
        with pytest.raises(Exception, match="does not open"):
            sent.seed(keeper, place)
    assert sent.integers(KEEPERS)[EXTRAS][0] * EXTRA_STEP == NUM_SAMPLES
    sealed = sent.sealed(1)
    assert sent.head.sha256 == digest_of(state_from(bytearray(sent.body), sent.head.tensors))
    assert sealed.masked_sha256 == name_of_masked(sent.head.sha256, sent.head.salt)
    assert (sealed.keeper, sealed.num_words, sealed.num_halves) == (KEEPERS[1], 10, 0)
    assert (sealed.min_sites, sealed.clip, sealed.step) == (3, None, None)


def test_a_seed_says_what_noise_its_worker_counts_on_the_keeper_for() -> None:
    plain = RING64.model_copy(update={"metrics": ()})
    sealed = Site().answer(masking=plain, privacy=NOISED, weighting="uniform").sealed()
    assert (sealed.noise, sealed.clip, sealed.step) == (4.0, 1.0, RING64.step)
    assert (sealed.epsilon, sealed.delta) == (NOISED.epsilon, NOISED.delta)
    assert sealed.within_at is None


@pytest.mark.parametrize(("clip", "says"), [(100.0, 0.5), (0.01, -0.5)])
def test_with_an_adaptive_clip_an_update_says_under_its_mask_whether_it_was_within_it(clip: float, says: float) -> None:
    plain = RING64.model_copy(update={"metrics": ()})
    privacy = NOISED.model_copy(update={"quantile": 0.5, "clip": clip})
    sent = Site().answer(masking=plain, privacy=privacy, weighting="uniform")
    integers = sent.integers(KEEPERS[:1])
    assert (integers[EXTRAS] * EXTRA_STEP).tolist() == [1.0, says]
    words = np.concatenate([integers[spec.name].ravel() for spec in sent.head.tensors if spec.item_bytes == 8])
    within_at = sent.sealed().within_at
    assert within_at is not None
    assert words[within_at] * EXTRA_STEP == says
    assert (sent.head.figures, sent.head.num_samples) == ({}, 1)


def test_a_keeper_cannot_confirm_a_guess_of_an_update_by_the_digest_in_its_seed() -> None:
    """It knows the mask, so it can make the body of any guess; the right one, here, is not told from others."""
    sent = Site().answer()
    assert sent.head.salt is not None
    assert sent.head.sha256.encode() not in sent.head.seeds[0]
    assert sent.sealed().masked_sha256 not in (sent.head.sha256, name_of_masked(sent.head.sha256, "00" * 32))
    assert sent.head.salt.encode() not in sent.head.seeds[0]
    assert Site().answer().head.salt != sent.head.salt


def test_a_seed_says_the_most_sites_that_anybody_asks_for() -> None:
    masking = RING64.model_copy(update={"min_sites": 7})
    assert Site(policy=WorkerPolicy(min_sites=5)).answer(masking=masking).sealed().min_sites == 7


def test_two_sends_of_one_update_have_the_same_integers_and_differ_everywhere() -> None:
    """Another process answers the same head; the integers are the same, seeds and all masked words are not."""
    first, second = Site().answer(), Site().answer()
    assert first.seed(KEEPERS[0]) != second.seed(KEEPERS[0])
    assert not (np.frombuffer(first.body, np.uint64) == np.frombuffer(second.body, np.uint64)).any()
    for name, integers in first.integers(KEEPERS[:1]).items():
        assert integers.tolist() == second.integers(KEEPERS[:1])[name].tolist()


def test_a_worker_killed_between_keeping_and_sending_sends_the_same_integers_under_a_fresh_seed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        pass

    def killed(*args: Any, **more: Any) -> Any:
        raise Killed

    seeds: list[bytes] = []
    monkeypatch.setattr("worker.masking.cover.fresh_seed", lambda: seeds.append(bytes([len(seeds)]) * 32) or seeds[-1])
    site = Site(carried=OnDisk(tmp_path, SITE))
    site.answer(1, masking=RING32)
    monkeypatch.setattr(site.transport, "send", killed)
    with pytest.raises(Killed):
        site.publish(2, masking=RING32)
    assert OnDisk(tmp_path, SITE).after("demo.1", 2) is not None
    after = Site(carried=OnDisk(tmp_path, SITE)).answer(2, masking=RING32)
    undisturbed = Site()
    undisturbed.answer(1, masking=RING32)
    wanted = undisturbed.answer(2, masking=RING32)
    assert after.seed(KEEPERS[0]) == bytes([2]) * 32  # the second one was for the body that was never sent
    for name, integers in after.integers(KEEPERS[:1]).items():
        assert integers.tolist() == wanted.integers(KEEPERS[:1])[name].tolist()


def test_a_blob_that_is_sent_again_is_the_same_body_under_the_same_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    site = Site(inline_cap=0)
    write, bodies = site.transport.write_blob, []

    def lost_once(name: str, parts: Any) -> str:
        given = [bytes(part) for part in parts]
        bodies.append(b"".join(given))
        if len(bodies) == 1:
            raise BlobLost("the broker forgot it")
        return write(name, given)

    monkeypatch.setattr(site.transport, "write_blob", lost_once)
    sent = site.answer()
    assert bodies == [sent.body, sent.body]
    assert sent.integers(KEEPERS[:1])[EXTRAS][0] * EXTRA_STEP == NUM_SAMPLES


def test_what_32_bits_cut_off_is_in_the_next_update() -> None:
    """Over 30 rounds what was sent and what is left add up to what was trained; one element is beyond the most."""
    site = Site()
    coarse = RING32.model_copy(update={"step": 2.0**-4, "most": 0.15})
    total = {name: torch.zeros_like(tensor, dtype=torch.float64) for name, tensor in STATE.items()}
    for number in range(1, 31):
        integers = site.answer(number, masking=coarse, weighting="uniform").integers(KEEPERS[:1])
        for name, delta in trained(number).items():
            total[name] += delta - torch.from_numpy(integers[name] * coarse.step)
    kept = site.worker._carried.before("demo.1", 31)
    assert kept is not None
    for name, left in kept.residual.items():
        assert left.flatten().tolist() == pytest.approx(total[name].flatten().tolist(), abs=1e-5)
        assert float(left.abs().max()) > 0


def test_with_64_bits_nothing_is_carried() -> None:
    site = Site()
    site.answer()
    assert site.worker._carried.before("demo.1", 2) is None


def test_a_delta_beyond_the_range_of_64_bits_is_no_update_and_not_cut_off(caplog: pytest.LogCaptureFixture) -> None:
    site = Site()
    site.publish(masking=RING64.model_copy(update={"most": 0.001}))
    assert not site.broker.queues[Source.UPDATES]
    assert "leaves the range of this run's integers" in caplog.text


def test_a_masked_body_is_not_sealed_as_well() -> None:
    sent = Site(policy=WorkerPolicy(require=frozenset({"signed", "sealed", "secure"}))).answer()
    assert sent.head.sealed is None
    assert len(sent.body) == sent.head.num_bytes


def test_without_a_roster_a_worker_stops_and_says_what_it_needs() -> None:
    with pytest.raises(SettingsError, match="has to know the keepers' keys and have one of its own: give --roster"):
        Site(membership=Membership()).publish()


@pytest.mark.parametrize(
    ("policy", "asked", "reason"),
    [
        (WorkerPolicy(require=frozenset({"secure"})), {"masking": None}, "does without secure aggregation (secure)"),
        (
            WorkerPolicy(require=frozenset({"secure", "dp"})),
            {},
            "this run does without differential privacy (dp), which --require asks for",
        ),
        (WorkerPolicy(min_sites=3), {"masking": None}, "seen one by one; --min-sites asks for sums of 3 sites"),
        (WorkerPolicy(min_sites=4), {}, "the run opens sums of 3 sites; --min-sites is 4"),
        (
            WorkerPolicy(),
            {"masking": RING64.model_copy(update={"keepers": ("ethics", "nobody")})},
            "of the run's keepers, nobody is not on this site's roster",
        ),
        (WorkerPolicy(), {"masking": RING64.model_copy(update={"step": 0.3})}, "a step is a power of two"),
        (WorkerPolicy(), {"compression": Compression(method="int8")}, "masks updates and also has --compression int8"),
        (WorkerPolicy(), {"weighting": "fednova"}, "--weighting fednova, which does not go together"),
        (WorkerPolicy(), {"masking": None, "privacy": NOISED}, "noise from keepers, and masks no updates"),
        (
            WorkerPolicy(require=frozenset({"secure", "dp"})),
            {
                "masking": RING64.model_copy(update={"metrics": ()}),
                "privacy": NOISED.model_copy(update={"where": "central"}),
            },
            "their sum would have no noise before the aggregator has seen it",
        ),
        (
            WorkerPolicy(max_epsilon=8.0),
            {
                "masking": RING64.model_copy(update={"metrics": ()}),
                "privacy": NOISED.model_copy(update={"noise": 0.1}),
            },
            "one model more is beyond the run's own budget of epsilon",
        ),
    ],
    ids=[
        "secure",
        "dp",
        "plain",
        "sites",
        "keeper",
        "step",
        "compression",
        "weighting",
        "noise",
        "late noise",
        "a budget that is none",
    ],
)
def test_a_head_that_a_site_may_not_answer_is_not_answered_and_that_is_said(
    policy: WorkerPolicy, asked: dict[str, Any], reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.ERROR, "worker")
    changes = {"weighting": "uniform"} | asked if "privacy" in asked else asked
    assert reason in Site(policy=policy).objection(**changes)
    assert reason in caplog.text
