"""What is no update of this run is set aside with its reason, and stops nobody."""

import math
import pickle
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pika
import pytest
import torch
from federation import DEAF, SOON_S, Federation
from rabbitmq_node import wait_until

from broker.rabbitmq.properties import REASON_HEADER, SENDER_HEADER
from broker.states.tensors import State, chunks, digest_of, specs_of
from broker.transport import BEGINNING_BYTES
from broker.wire.buffers import cut
from broker.wire.codec import encode
from broker.wire.messages import BlobRef, ModelHead, UpdateHead
from broker.wire.topology import update_key

pytest_plugins = ["federation_plugin"]
pytestmark = pytest.mark.timeout(300)  # of which an idle machine needs ten seconds

NAMES = ("worker-0", "worker-1")
NEVER = ("--commit-every-s", "3600")
SENDER, GARBLER = "mallory", "garbler"
"""Two, since more than twenty bad messages of one sender in a round are not all kept."""


@dataclass(frozen=True)
class Bad:
    """A message, and what is said of it when it is set aside."""

    body: bytes
    reason: str
    """A regular expression."""
    sender: str = SENDER

    @property
    def kept(self) -> bytes:
        """What is set aside of it: of one that is too long to be an update, the beginning."""
        return self.body if len(self.body) < 10**6 else self.body[:BEGINNING_BYTES]


def delta(*, bias: float = 0.25, last: float = 0.5) -> State:
    """A delta of tasks/gated.py's model: two floats in ``bias``, which travels first, and six in ``weight``."""
    return {"bias": torch.tensor([0.0, bias]), "weight": torch.tensor([[0.5, 0.5, 0.5], [0.5, 0.5, last]])}


def update_head(model: ModelHead, state: State, **changes: Any) -> UpdateHead:
    head = UpdateHead(
        tensors=specs_of(state),
        sha256=digest_of(state),
        run_id=model.run_id,
        worker=SENDER,
        instance="0123456789abcdef",
        round=model.round,
        num_samples=7,
        train_s=0.1,
        sent_at=0.0,
    )
    return head.model_copy(update=changes)


def update(model: ModelHead, state: State, **changes: Any) -> bytes:
    return encode(update_head(model, state, **changes), b"".join(chunks(state, specs_of(state))))


def bad_messages(model: ModelHead) -> Iterator[Bad]:
    """One of each kind, from what is no message at all to what is nearly an update."""
    good = update(model, delta())
    yield Bad(b"", "not a fedmq message: it begins with nothing", GARBLER)
    yield Bad(b"\x80\x04\xff garbage" * 100, "not a fedmq message", GARBLER)
    yield Bad(pickle.dumps({"weight": [0.5] * 6}), "not a fedmq message", GARBLER)
    yield Bad(b"FMQ\x07" + good[4:], "message format 7; this fedmq reads formats 1 to 3", GARBLER)
    yield Bad(b"FMQ\x03" + good[4:], "message format 3 is for models alone")
    yield Bad(b"FMQ\x01" + b"\xff" * 4, "header of 4294967295 bytes announced; at most", GARBLER)
    yield Bad(good[:40], "message is cut off")
    yield Bad(good[:-5], "its body has 27 bytes; its tensors need 32")
    yield Bad(good + bytes(12), "its body has 44 bytes; its tensors need 32")
    yield Bad(good + bytes(12_000_000), r"a message of 120\d{5} bytes; none of this run's updates is that large")
    yield Bad(good[:-1] + bytes([good[-1] ^ 1]), "its body does not match its digest")
    yield Bad(update(model, delta(), run_id="other.12345678"), r"update of run other\.12345678; this is run")
    yield Bad(update(model, delta(), round=model.round + 1), "which is not open; the open one is 2")
    yield Bad(update(model, delta(), worker="worker-0"), "claims to be from worker-0, but came with the key of")
    yield Bad(update(model, delta(), num_samples=0), "UpdateHead num_samples: ")
    yield Bad(update(model, delta(), train_s=math.nan), "UpdateHead train_s: ")
    yield Bad(update(model, {"weight": torch.ones(3, 2), "bias": torch.zeros(2)}), r"of shape \[3, 2\], not \[2, 3\]")
    yield Bad(update(model, {"weight": torch.ones(2, 3)}), "has no tensor 'bias'")
    yield Bad(update(model, delta() | {"more": torch.ones(1)}), "has a tensor 'more' that the model does not have")
    yield Bad(update(model, {name: t.double() for name, t in delta().items()}), "of dtype float64, not float32")
    yield Bad(update(model, delta(last=math.nan)), "holds NaN or infinity")
    yield Bad(update(model, delta(bias=-math.inf)), "holds NaN or infinity")
    yield Bad(update(model, delta(last=3e38)), "num_samples times delta reaches")
    huge = (specs_of({"weight": torch.ones(2, 3)})[0]._replace(shape=(2**39,)),)
    yield Bad(encode(update_head(model, delta(), tensors=huge)), "has no tensor 'bias'")
    foreign = BlobRef(name="updates.blob.model.1", part_bytes=16)
    yield Bad(encode(update_head(model, delta(), blob=foreign)), "names a blob that is not its own")


def blob_of(federation: Federation, model: ModelHead) -> BlobRef:
    return BlobRef(name=federation.topology.update_blob(SENDER, model.run_id, model.round), part_bytes=16)


def publish(federation: Federation, body: bytes, *, sender: str = SENDER) -> None:
    with federation.channel() as channel:
        channel.basic_publish(federation.topology.inbound, update_key(sender), body, mandatory=True)


def dead_letters(federation: Federation) -> list[tuple[bytes, dict[str, Any]]]:
    """Body and headers of all that was set aside."""
    letters = []
    with federation.channel() as channel:
        while (got := channel.basic_get(federation.topology.dead))[0] is not None:
            letters.append((got[2], got[1].headers))
        channel.basic_nack(0, multiple=True, requeue=True)
    return letters


def num_dead(federation: Federation) -> int:
    with federation.channel() as channel:
        return int(channel.queue_declare(federation.topology.dead, passive=True).method.message_count)


@pytest.mark.parametrize("inline", [True, False], ids=["inline", "as blobs"])
def test_every_kind_of_bad_message_is_set_aside_with_its_reason_and_training_goes_on(
    federation: Federation, undisturbed_sha256: Callable[..., str], *, inline: bool
) -> None:
    """They come while one honest update is folded and not committed, and another one is on its way."""
    flags = () if inline else ("--inline-cap", "0")
    parts = () if inline else ("--part-bytes", "16")
    federation.gates.hold("worker-1", 2)
    aggregator = federation.aggregator("--rounds", "3", "--quorum", "2", *NEVER, *flags, *parts)
    workers = [federation.worker(name, *flags) for name in NAMES]
    aggregator.says("round   2 ← worker-0")
    model = federation.wait_for_head(2)
    bad = list(bad_messages(model))
    for message in bad:
        publish(federation, message.body, sender=message.sender)
    assert wait_until(lambda: num_dead(federation) == len(bad), timeout_s=SOON_S), aggregator.tail

    federation.gates.release("worker-1", 2)

    assert [aggregator.ends(), *(worker.ends() for worker in workers)] == [0, 0, 0]
    letters = dead_letters(federation)
    assert [body for body, _ in letters] == [message.kept for message in bad]
    for (_, headers), message in zip(letters, bad, strict=True):
        assert re.search(message.reason, headers[REASON_HEADER])
        assert headers[SENDER_HEADER] == message.sender
    refused = federation.rows("SELECT reason, worker, round FROM updates WHERE verdict = 'refused' ORDER BY id")
    assert refused == [(headers[REASON_HEADER], headers[SENDER_HEADER], 2) for _, headers in letters]
    assert [row["refused"] for row in federation.summary["rounds"]] == [0, len(bad), 0]
    assert federation.folded() == [(number, name) for number in (1, 2, 3) for name in NAMES]
    assert federation.summary["final"]["model_sha256"] == undisturbed_sha256(*NAMES, rounds=3)
    assert "Traceback" not in aggregator.said


@pytest.mark.parametrize("is_there", [True, False], ids=["bad in its last part", "gone"])
def test_a_bad_blob_is_set_aside_once_and_leaves_nothing_in_the_mean(
    federation: Federation, undisturbed_sha256: Callable[..., str], *, is_there: bool
) -> None:
    federation.gates.hold("worker-1", 2)
    aggregator = federation.aggregator("--rounds", "3", "--quorum", "2", "--part-bytes", "16", *NEVER)
    workers = [federation.worker(name) for name in NAMES]
    aggregator.says("round   2 ← worker-0")
    model = federation.wait_for_head(2)
    blob, state = blob_of(federation, model), delta(last=math.nan)
    with federation.transport() as transport:
        if is_there:
            transport.write_blob(blob.name, cut(chunks(state, specs_of(state)), blob.part_bytes))
        transport.send(encode(update_head(model, state, blob=blob)), worker=SENDER)
        aggregator.says("holds NaN or infinity" if is_there else f"blob {blob.name} is gone")

        federation.gates.release("worker-1", 2)

        assert [aggregator.ends(), *(worker.ends() for worker in workers)] == [0, 0, 0]
        transport.delete_blobs([blob.name])
    assert federation.folded() == [(number, name) for number in (1, 2, 3) for name in NAMES]
    assert federation.summary["final"]["model_sha256"] == undisturbed_sha256(*NAMES, rounds=3)
    assert [row["refused"] for row in federation.summary["rounds"]] == [0, 1, 0]
    assert len(dead_letters(federation)) == 1


def test_a_late_update_is_told_once_though_a_bad_blob_comes_before_the_commit(federation: Federation) -> None:
    gates = federation.gates
    for name, number in (("slow", 1), ("slow", 2), ("quick", 2)):
        gates.hold(name, number)
    aggregator = federation.aggregator("--rounds", "2", "--quorum", "1", "--part-bytes", "16", *NEVER, task=DEAF)
    slow = federation.worker("slow", task=DEAF)
    gates.wait_for("slow", 1)
    quick = federation.worker("quick", task=DEAF)
    gates.wait_for("quick", 2)
    gates.release("slow", 1)
    aggregator.says("round   1 ← slow")
    model = federation.wait_for_head(2)
    blob, state = blob_of(federation, model), delta(last=math.nan)
    with federation.transport() as transport:
        transport.write_blob(blob.name, cut(chunks(state, specs_of(state)), blob.part_bytes))
        transport.send(encode(update_head(model, state, blob=blob)), worker=SENDER)
        aggregator.says("holds NaN or infinity")
        transport.delete_blobs([blob.name])

    for name in ("quick", "slow"):
        gates.release(name, 2)

    assert [aggregator.ends(), quick.ends(), slow.ends()] == [0, 0, 0]
    assert federation.verdicts("slow", 1) == ["late"]


def test_signs_of_life_that_are_none_are_dropped(federation: Federation) -> None:
    federation.gates.hold("only", 1)
    aggregator = federation.aggregator("--rounds", "1")
    worker = federation.worker("only")
    federation.gates.wait_for("only", 1)
    with federation.channel() as channel:
        for body in (b"", b"garbage", pickle.dumps("here")):
            channel.basic_publish(federation.topology.inbound, f"presence.{SENDER}", body, pika.BasicProperties())
    aggregator.says(f"sign of life from '{SENDER}' dropped: not a fedmq message", times=3)

    federation.gates.release("only", 1)

    assert [aggregator.ends(), worker.ends()] == [0, 0]
