"""The test vectors of docs/wire.md: messages as bytes, with what is in them. Made by the product's own code.

PYTHONPATH=tests:. python -m wire_vectors docs/vectors.json
"""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from broker.states.compression import Encoding
from broker.states.tensors import State, chunks, digest_of, specs_of
from broker.wire.codec import encode
from broker.wire.messages import Compression, Header, ModelHead, Presence, Status, UpdateHead, WorkerStatus
from broker.wire.specs import delta_specs
from broker.wire.zstd import compressed

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
COMPRESSIONS = ("none", "float16", "bfloat16", "int8", "topk:0.01")


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


def _update(compression: Compression) -> dict[str, Any]:
    encoding = Encoding(delta_specs(specs_of(MODEL)), compression)
    encoded = encoding.encode(DELTA, seed=SEED)
    head = UpdateHead(
        tensors=encoding.encoded,
        sha256=digest_of(encoded),
        compression=compression,
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
    name = f"update, {compression}"
    vector = _vector(name, head, encoded, zstd=compression.zstd)
    decoded = {spec.name: encoding.decoded(encoded, spec) for spec in encoding.specs}
    return vector | {"delta": {key: tensor.flatten().tolist() for key, tensor in decoded.items()}}


def _vector(name: str, head: Header, state: State, *, zstd: int = 0) -> dict[str, Any]:
    payload = compressed(b"".join(chunks(state, specs_of(state))), zstd)
    return {"name": name, "bytes": encode(head, payload).hex(), "header": head.model_dump(mode="json")}


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(json.dumps(list(vectors()), indent=1) + "\n", encoding="utf-8")
