"""The wire format's test vectors: today's code makes them, and a decoder that knows only docs/wire.md reads them."""

import hashlib
import json
import struct
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import pytest
import zstandard
from wire_vectors import vectors

from broker.wire import messages

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs" / "wire.md").read_text(encoding="utf-8")
VECTORS = {vector["name"]: vector for vector in json.loads((ROOT / "docs" / "vectors.json").read_text("utf-8"))}
HEADERS = ("ModelHead", "UpdateHead", "PartialHead", "Folded", "Presence", "Status", "WorkerStatus")
NUMPY = {"float64": "<f8", "float32": "<f4", "float16": "<f2", "int64": "<i8", "int32": "<i4", "int8": "<i1"}


def test_the_code_makes_the_vectors() -> None:
    made = {vector["name"]: vector for vector in vectors()}
    assert made.keys() == VECTORS.keys()
    for name, vector in made.items():
        assert json.loads(json.dumps(vector["header"])) == VECTORS[name]["header"]
        assert vector.get("delta") == VECTORS[name].get("delta")
        if "zstd" not in name:  # whose bytes are the library's own affair
            assert vector["bytes"] == VECTORS[name]["bytes"], "python -m wire_vectors docs/vectors.json"


@pytest.mark.parametrize("name", HEADERS)
def test_the_page_names_every_field_of_a_header(name: str) -> None:
    model = getattr(messages, name)
    missing = [field for field in model.model_fields if f"`{field}`" not in PAGE]
    assert not missing


@pytest.mark.parametrize("name", VECTORS)
def test_a_decoder_that_follows_the_page_reads_a_vector(name: str) -> None:
    vector = VECTORS[name]
    header, payload = framed(bytes.fromhex(vector["bytes"]))
    assert json.loads(json.dumps(header)) == vector["header"]
    if "tensors" not in header:
        assert payload == b""
        return
    if header.get("compression", {}).get("zstd") and header["kind"] == "update":
        payload = zstandard.ZstdDecompressor().decompress(payload)
    digest = hashlib.sha256(msgpack.packb(header["tensors"]) + payload).hexdigest()
    assert digest == header["sha256"]
    state = tensors_of(header["tensors"], payload)
    if header["kind"] == "model":
        assert state["steps"].tolist() == 3
        assert state["weight"][1, 299] == np.float32(299 / 256)
    else:
        assert delta_of(header, state) == vector["delta"]


def framed(message: bytes) -> tuple[dict[str, Any], bytes]:
    """Header and payload, by the table of the page."""
    assert message[:4] == b"FMQ\x02"
    length, trailer = struct.unpack("<II", message[4:12])
    offset = -(-(12 + length + trailer) // 64) * 64
    assert not any(message[12 + length + trailer : offset])
    return msgpack.unpackb(message[12 : 12 + length]), message[offset:]


def tensors_of(specs: list[Any], payload: bytes) -> dict[str, Any]:
    state, offset = {}, 0
    for name, dtype, shape in specs:
        count = int(np.prod(shape, dtype=np.int64))
        if dtype == "bfloat16":  # the upper half of a float32
            values = (np.frombuffer(payload, "<u2", count, offset).astype(np.uint32) << 16).view(np.float32)
        else:
            values = np.frombuffer(payload, NUMPY[dtype], count, offset)
        state[name] = values.reshape(shape)
        offset += count * (2 if dtype == "bfloat16" else values.itemsize)
    assert offset == len(payload)
    return state


def delta_of(header: dict[str, Any], state: dict[str, Any]) -> dict[str, list[float]]:
    """The delta that an update of the vectors' model decodes to: weight (2, 300), bias (2), steps ()."""
    places = {"0": ("steps", ()), "1": ("bias", (2,)), "2": ("weight", (2, 300))}
    delta = {}
    for name, values in state.items():
        place, dot, kind = name.partition(".")
        if not dot:
            delta[name] = values
        elif kind == "plain":
            delta[places[place][0]] = values
        elif kind == "codes":
            scales = np.repeat(state[f"{place}.scales"], 256)[: values.size]
            delta[places[place][0]] = values.reshape(-1).astype(np.float32) * scales
        elif kind == "values":
            dense = np.zeros(int(np.prod(places[place][1])), np.float32)
            dense[np.cumsum(state[f"{place}.gaps"]) - 1] = values
            delta[places[place][0]] = dense
    return {name: np.asarray(values).reshape(-1).tolist() for name, values in delta.items()}
