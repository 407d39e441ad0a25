"""The test vectors of docs/wire.md: messages as bytes, with what is in them. Made by the product's own code.

Keys are known bytes. What is sealed is random: the vector that is there stays.

PYTHONPATH=tests:. python -m wire_vectors docs/vectors.json
"""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from broker.corrections import CONTROL
from broker.states.compression import Encoding
from broker.states.downlink import ModelForm
from broker.states.tensors import State, chunks, digest_of, specs_of
from broker.wire import tensor_sets
from broker.wire.bodies import Outgoing
from broker.wire.buffers import cut
from broker.wire.codec import encode
from broker.wire.headers.counted import hash64, pack_counted
from broker.wire.headers.participation import Draw
from broker.wire.messages import (
    Answer,
    BlobRef,
    Command,
    Compression,
    Header,
    ModelHead,
    Presence,
    Reply,
    Status,
    UpdateHead,
    WorkerStatus,
)
from broker.wire.signatures import Believing, Trust
from broker.wire.specs import Digest, delta_specs, num_bytes_of
from broker.wire.zstd import compressed
from identities.certificates import Certificate
from identities.private_keys import PrivateKeys
from identities.roster import Roster
from identities.roster_file import FixedRoster
from identities.sealing import Sealing, UpdateContext
from identities.trust import Verified

SEED = 11
MODEL: State = {
    "weight": (torch.arange(600, dtype=torch.float32).reshape(2, 300) - 300) / 256,
    "bias": torch.tensor([0.5, -0.25]),
    "steps": torch.tensor(3),
}
DELTA: State = {
    "weight": torch.linspace(-1, 1, 600).reshape(2, 300) ** 3,
    "bias": torch.tensor([0.125, -1.0]),
    "steps": torch.tensor(1),
}
CONTROLLED = tensor_sets.join(
    {
        tensor_sets.MODEL: MODEL,
        CONTROL: {"weight": torch.linspace(1, -1, 600).reshape(2, 300) / 16, "bias": torch.tensor([0.0625, 0.0])},
    }
)
"""The model with SCAFFOLD's control variate beside it."""
COMPRESSIONS = ("none", "float16", "bfloat16", "int8", "topk:0.01")

SEALED = "update, sealed, in two parts"
NOW = 1.7e9


def golden(first: int) -> bytes:
    """The 32 bytes of a private key that everybody knows."""
    return bytes(range(first, first + 32))


OPENING = X25519PrivateKey.from_private_bytes(golden(0))
ADMIN = PrivateKeys.of("admin", "admin", Ed25519PrivateKey.from_private_bytes(golden(96)))
SITE = PrivateKeys.of("worker", "hospital-a", Ed25519PrivateKey.from_private_bytes(golden(0)))
WORKER = PrivateKeys.of("worker", "hospital-a-7", Ed25519PrivateKey.from_private_bytes(golden(32)))
AGGREGATOR = PrivateKeys.of("aggregator", "aggregator", Ed25519PrivateKey.from_private_bytes(golden(64)), OPENING)
CERTIFICATE = Certificate.issue(SITE, WORKER.public, now=NOW, days=7)
ROSTER = Roster(federation="demo", admin=ADMIN.public.signing_key).with_members([AGGREGATOR.public, SITE.public])


class _Fixed:
    def current(self) -> Certificate:
        return CERTIFICATE


def trust_of(keys: PrivateKeys) -> Verified:
    """How the owner of these keys signs, on the vectors' roster."""
    certificates = _Fixed() if keys is WORKER else None
    return Verified(FixedRoster(ROSTER), keys, certificates, clock=lambda: NOW)


def vectors() -> Iterator[dict[str, Any]]:
    """Name, bytes in hex, header as JSON, and the state that its payload is (of an update: before zstd)."""
    head = ModelHead(
        tensors=specs_of(MODEL),
        sha256=digest_of(MODEL),
        run="demo",
        run_id="demo.0a1b2c3d",
        epoch=1,
        round=4,
        num_rounds=20,
        seed=SEED,
    )
    yield _vector("model", head, MODEL)
    yield _vector("model, inline up to 4096 bytes", head.model_copy(update={"inline_cap": 4096}), MODEL)
    asking = {"protection": ("signed", "sealed"), "began_at": 1.7e9 - 60}
    yield _vector("model, for signed and sealed updates", head.model_copy(update=asking), MODEL)
    yield _vector("model, with replies", head.model_copy(update={"replies": ("diverged", "measured")}), MODEL)
    last = {"replies": ("diverged", "measured"), "round": 21, "only_evaluate": True}
    yield _vector("model, only to be measured", head.model_copy(update=last), MODEL)
    yield from _of_algorithms(head)
    for text in COMPRESSIONS:
        yield _update(Compression.parse(text))
    yield _update(Compression.parse("none", zstd=3))
    presence = Presence(worker="hospital-a", instance="0123456789abcdef", state="training", round=4, progress=0.25)
    yield _vector("presence", presence, {})
    yield _vector("presence, once a minute", presence.model_copy(update={"every_s": 60.0}), {})
    objecting = Presence(worker="hospital-a", instance="0123456789abcdef", state="idle", objection="not sealed")
    yield _vector("presence, with an objection", objecting, {})
    worker = WorkerStatus(name="hospital-a", state="idle", round=4, progress=0.0, seen_at=1.7e9, has_answered=True)
    status = Status(
        run="demo",
        run_id="demo.0a1b2c3d",
        state="running",
        sent_at=1.7e9 + 0.5,
        round=4,
        num_rounds=20,
        num_folded=1,
        target=3,
        num_present=1,
        deadline_at=1.7e9 + 60,
        workers=(worker,),
    )
    yield _vector("status", status, {})
    command = Command(
        id="00112233445566778899aabbccddeeff",
        run_id="demo.0a1b2c3d",
        verb="set",
        words=("lr=0.01", "epochs=1"),
        sent_at=1.7e9,
    )
    yield _vector("command", command, {})
    answer = Answer(id=command.id, is_accepted=True, text="from round 5 on: lr 0.01 (0.05 before)")
    paused = status.model_copy(update={"is_paused": True, "answers": (answer,)})
    yield _vector("status, paused, with an answer", paused, {})
    measured = Reply(
        run_id="demo.0a1b2c3d",
        worker="hospital-a",
        instance="0123456789abcdef",
        round=4,
        model_sha256=digest_of(MODEL),
        outcome="measured",
        sent_at=1.7e9,
        eval_metrics={"accuracy": 0.75, "num_samples": 30.0},
    )
    yield _vector("reply, measured", measured, {})
    why = {"outcome": "diverged", "reason": "training gave NaN or infinity in 'weight'", "train_s": 1.5}
    diverged = measured.model_copy(update=why | {"eval_not_finite": {"loss": "nan"}})
    yield _vector("reply, diverged", diverged, {})
    yield _signed("reply, diverged, signed", diverged, {}, SITE)
    yield _signed("model, signed", head, MODEL, AGGREGATOR)
    yield _signed("presence, signed", presence, {}, SITE)
    yield _signed("presence, signed, on a certificate", _by(WORKER, presence), {}, WORKER)
    encoding = Encoding(delta_specs(specs_of(MODEL)), Compression())
    update = _update_head(encoding, DELTA)
    yield _signed("update, signed", update, DELTA, SITE)
    yield _signed("update, signed, on a certificate", _by(WORKER, update), DELTA, WORKER)


def _of_algorithms(head: ModelHead) -> Iterator[dict[str, Any]]:
    """What algorithms other than FedAvg have in their heads. ``head`` is that of the plain model."""
    controlled = {
        "tensors": specs_of(CONTROLLED),
        "sha256": digest_of(CONTROLLED),
        "sets": (CONTROL,),
        "correction": "scaffold",
        "weighting": "normalized",
        "control_epoch": 1,
        "counted": pack_counted({hash64("hospital-a"): 3, hash64("hospital-b"): 2}),
        "figures": ("update_norm1",),
        "draw": Draw(number=1, threshold=2**63),
        "statistics": {"mean": (0.5, -1.5), "std": (1.0, 0.25)},
    }
    yield _vector("model, with a control variate, for a sample", head.model_copy(update=controlled), CONTROLLED)
    drawn = {"replies": ("diverged", "measured"), "draw": Draw(number=1, threshold=2**62)}
    yield _vector("model, for a sample, deflated", head.model_copy(update=drawn), MODEL, deflates=True)
    weighed = {"weighting": "fednova", "figures": ("update_norm1", "norm"), "clip_norm": 2.5}
    yield _vector("model, for updates with figures", head.model_copy(update=weighed), MODEL)
    summed = {"purpose": "sums", "operations": {"weight": "sum", "bias": "max"}}
    yield _vector("model, to be summed up", head.model_copy(update=summed), MODEL)
    yield _halved(head)
    yield from _by_blake3(head)
    encoding = Encoding(delta_specs(specs_of(MODEL)), Compression())
    told = {"model_sha256": digest_of(CONTROLLED), "figures": {"update_norm1": 12.5}, "is_fresh": True}
    update = _update_head(encoding, DELTA).model_copy(update=told)
    yield _vector("update, with figures, begun with nothing", update, DELTA) | {"delta": _delta_in(encoding, DELTA)}


def _by_blake3(head: ModelHead) -> Iterator[dict[str, Any]]:
    """A model that has both digests, and an update from it that has BLAKE3's alone, in blobs."""
    by_blake3 = Digest(specs_of(MODEL), "blake3")
    for chunk in chunks(MODEL, specs_of(MODEL)):
        by_blake3.add(chunk)
    blob = BlobRef(name="updates.blob.model.demo.0a1b2c3d.4", part_bytes=2048)
    head = head.model_copy(update={"blake3": by_blake3.hex(), "blob": blob})
    parts = [part.hex() for part in cut(chunks(MODEL, head.tensors), blob.part_bytes)]
    yield _vector("model in a blob, by BLAKE3", head, {}) | {"parts": parts}
    encoding = Encoding(delta_specs(specs_of(MODEL)), Compression())
    body = Outgoing(encoding.encoded, num_bytes_of(encoding.encoded), function="blake3")
    blob = BlobRef(name="updates.blob.update.hospital-a.demo.0a1b2c3d.4", part_bytes=2048)
    parts = [part.hex() for part in body.parts(cut(chunks(DELTA, encoding.encoded), blob.part_bytes))]
    told = {"sha256": None, "blake3": body.digest.hex, "blob": blob}
    update = _update_head(encoding, DELTA).model_copy(update=told)
    yield _vector("update in a blob, by BLAKE3", update, {}) | {"parts": parts, "delta": _delta_in(encoding, DELTA)}


def _halved(head: ModelHead) -> dict[str, Any]:
    """A model that travels in bfloat16; the digest is that of what is read."""
    writer = ModelForm(specs_of(MODEL), "bfloat16").writer()
    digest, payload = Digest(specs_of(MODEL)), b""
    for read, sent in (pair for chunk in chunks(MODEL, specs_of(MODEL)) for pair in writer.pieces(chunk)):
        digest.add(read)
        payload += sent
    head = head.model_copy(update={"downlink": "bfloat16", "sha256": digest.hex()})
    message = encode(head, payload, trust=Believing())
    return {"name": "model, in bfloat16", "bytes": message.hex(), "header": shown(head.model_dump())}


def _update(compression: Compression) -> dict[str, Any]:
    encoding = Encoding(delta_specs(specs_of(MODEL)), compression)
    encoded = encoding.encode(DELTA, seed=SEED)
    vector = _vector(f"update, {compression}", _update_head(encoding, encoded), encoded, zstd=compression.zstd)
    return vector | {"delta": _delta_in(encoding, encoded)}


def _delta_in(encoding: Encoding, encoded: State) -> dict[str, list[float]]:
    return {spec.name: encoding.decoded(encoded, spec).flatten().tolist() for spec in encoding.specs}


def _update_head(encoding: Encoding, encoded: State) -> UpdateHead:
    return UpdateHead(
        tensors=encoding.encoded,
        sha256=digest_of(encoded),
        compression=encoding.compression,
        run_id="demo.0a1b2c3d",
        worker="hospital-a",
        instance="0123456789abcdef",
        round=4,
        model_sha256=digest_of(MODEL),
        num_samples=120,
        train_s=1.5,
        sent_at=1.7e9,
        train_metrics={"loss": 0.25},
        eval_metrics={"accuracy": 0.75, "num_samples": 30.0},
    )


def _by(keys: PrivateKeys, head: Header) -> Header:
    return head.model_copy(update={"worker": keys.public.name})


def _signed(name: str, head: Header, state: State, keys: PrivateKeys) -> dict[str, Any]:
    """A vector that also has the public key of whoever signed it, and of the site that admitted that one."""
    vector = _vector(name, head, state, trust=trust_of(keys)) | {"public_key": keys.public.signing_key}
    if isinstance(head, UpdateHead):
        vector["delta"] = {key: tensor.flatten().tolist() for key, tensor in state.items()}
    if keys is WORKER:
        vector["certificate"] = {
            "site_public_key": SITE.public.signing_key,
            "worker": CERTIFICATE.worker,
            "valid_from": CERTIFICATE.valid_from,
            "valid_until": CERTIFICATE.valid_until,
        }
    return vector


def sealed_vector() -> dict[str, Any]:
    """An update whose body is sealed: another one each time."""
    encoding = Encoding(delta_specs(specs_of(MODEL)), Compression())
    head = _update_head(encoding, DELTA)
    seal, key = Sealing(lambda: ROSTER.opening_key).seal(UpdateContext.of(head))
    body = Outgoing(head.tensors, head.num_bytes, seal=seal)
    blob = BlobRef(name="updates.blob.update.hospital-a.demo.0a1b2c3d.4", part_bytes=2048)
    parts = list(body.parts(cut(chunks(DELTA, head.tensors), blob.part_bytes)))
    head = head.model_copy(update={"sha256": body.digest.hex, "sealed": key, "blob": blob})
    signed = _vector(SEALED, head, {}, trust=trust_of(SITE))
    return signed | {
        "public_key": SITE.public.signing_key,
        "parts": [part.hex() for part in parts],
        "delta": _delta_in(encoding, DELTA),
    }


def _vector(
    name: str, head: Header, state: State, *, zstd: int = 0, trust: Trust | None = None, deflates: bool = False
) -> dict[str, Any]:
    payload = compressed(b"".join(chunks(state, specs_of(state))), zstd)
    message = encode(head, payload, trust=trust or Believing(), deflates=deflates)
    return {"name": name, "bytes": message.hex(), "header": shown(head.model_dump())}


def shown(header: dict[str, Any]) -> Any:
    """A header as JSON has it, with its bytes in hex."""
    return json.loads(json.dumps(header, default=bytes.hex))


def _written(path: Path) -> list[dict[str, Any]]:
    """All vectors; the sealed one as it is in this file, if it is."""
    there = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
    sealed = next((vector for vector in there if vector["name"] == SEALED), None)
    return [*vectors(), sealed or sealed_vector()]


if __name__ == "__main__":
    file = Path(sys.argv[1])
    file.write_text(json.dumps(_written(file), indent=1) + "\n", encoding="utf-8")
