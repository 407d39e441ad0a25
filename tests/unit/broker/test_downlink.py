"""A model's body in fewer bytes, and what is read from it."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as some

from broker.memory import MemoryBroker, MemoryTransport
from broker.states.downlink import ModelForm
from broker.states.model_body import read_model
from broker.states.tensors import State, chunks, digest_of, specs_of
from broker.wire.headers import Downlink
from broker.wire.messages import BlobRef, ModelHead
from broker.wire.specs import TensorSpec
from console.errors import UnfitMessage

MIXED: State = {
    "a.mask": torch.tensor([[float("inf"), float("-inf")], [float("nan"), 1.0]]),
    "b.bias": torch.tensor([1.000001, -3.3333333]),
    "c.count": torch.tensor([2**31 - 1, 7, -9], dtype=torch.int32),
    "d.weight": torch.linspace(-3, 3, 33).reshape(3, 11),
    "e.exact": torch.tensor([[0.1, 0.2]], dtype=torch.float64),
    "f.half": torch.tensor([[0.1, 0.2, 0.3]], dtype=torch.float16),
    "g.steps": torch.tensor(5),
    "h.long": torch.linspace(0, 1, 4097),
    "i.flags": torch.tensor([True, False, True]),
    "j.none": torch.zeros(0, 3),
    "control/d.weight": torch.linspace(-1, 1, 33).reshape(3, 11) / 3,
}
ROUNDED = ("a.mask", "d.weight", "h.long")


def read(state: State) -> State:
    """What a worker is to read of it; the mask is exact as it is."""
    rounded = {name: state[name].to(torch.bfloat16).to(torch.float32) for name in ROUNDED if name != "a.mask"}
    return state | rounded


def head_of(state: State, sha256: str, *, blob: BlobRef | None = None, downlink: Downlink = "bfloat16") -> ModelHead:
    return ModelHead(
        tensors=specs_of(state),
        sets=("control",),
        sha256=sha256,
        blob=blob,
        downlink=downlink,
        run="demo",
        run_id="demo.0a1b2c3d",
        epoch=1,
        round=1,
        num_rounds=2,
        seed=0,
    )


def sent(state: State) -> bytes:
    writer = ModelForm(specs_of(state), "bfloat16", ("control",)).writer()
    return b"".join(out for chunk in chunks(state, specs_of(state)) for _, out in writer.pieces(chunk))


def parts_of(body: bytes, size: int) -> Iterator[bytes]:
    yield from (body[start : start + size] for start in range(0, len(body), size))


def taken(head: ModelHead, body: bytes, part_bytes: int | None) -> State:
    broker = MemoryBroker()
    transport = MemoryTransport(broker)
    if part_bytes is not None:
        transport.write_blob("model", parts_of(body, part_bytes))
        head = head.model_copy(update={"blob": BlobRef(name="model", part_bytes=part_bytes)})
        body = b""
    return read_model(head, body, transport, trained=("b.bias", "d.weight"))


@pytest.mark.parametrize("part_bytes", [None, 8, 24, 4096])
def test_what_is_read_is_the_rounded_model_under_its_own_digest(part_bytes: int | None) -> None:
    wanted, body = read(MIXED), sent(MIXED)
    head = head_of(MIXED, digest_of(wanted))
    state = taken(head, body, part_bytes)
    assert digest_of(state) == head.sha256
    assert {name: tensor.dtype for name, tensor in state.items()} == {n: t.dtype for n, t in MIXED.items()}
    assert len(body) == ModelForm.of(head).num_bytes == head.num_bytes - sum(MIXED[n].numel() * 2 for n in ROUNDED)


def test_what_is_read_of_a_rounded_model_is_that_model() -> None:
    once = taken(head_of(MIXED, digest_of(read(MIXED))), sent(MIXED), None)
    assert sent(once) == sent(MIXED)


def test_without_a_downlink_the_body_is_the_payload() -> None:
    form = ModelForm(specs_of(MIXED), "none", ("control",))
    payload = b"".join(chunks(MIXED, specs_of(MIXED)))
    assert (form.is_plain, form.num_bytes) == (True, len(payload))
    assert [tuple(map(bytes, pair)) for pair in form.writer().pieces(payload)] == [(payload, payload)]


@pytest.mark.parametrize("change", ["shorter", "longer", "another value"])
def test_a_body_that_is_not_what_its_head_says_is_refused(change: str) -> None:
    body = sent(MIXED)
    changed = {"shorter": body[:-1], "longer": body + b"\0", "another value": b"\1" + body[1:]}[change]
    with pytest.raises(UnfitMessage, match="does not match its digest" if change == "another value" else "payload has"):
        taken(head_of(MIXED, digest_of(read(MIXED))), changed, None)


def test_a_body_that_is_cut_within_an_element_is_refused() -> None:
    reader = ModelForm((TensorSpec("w", "float32", (2, 2)),), "bfloat16").reader()
    with pytest.raises(UnfitMessage, match="cut within an element"):
        reader.read(b"\0\0\0", memoryview(bytearray(16)))


def written(values: torch.Tensor) -> torch.Tensor:
    """What is read of these values."""
    form = ModelForm((TensorSpec("w", "float32", (1, len(values))),), "bfloat16")
    read, _ = next(form.writer().pieces(memoryview(values.numpy()).cast("B")))
    return torch.frombuffer(bytearray(read), dtype=torch.float32)


@given(some.lists(some.floats(width=32), min_size=1, max_size=20))
def test_rounding_is_to_the_nearest_bfloat16_and_a_tie_goes_to_the_even_one(values: list[float]) -> None:
    given, largest = torch.tensor(values), torch.finfo(torch.bfloat16).max
    read = written(given)
    nearest = given.to(torch.float64).clamp(-largest, largest)
    nearest = torch.where(given.isinf(), given.to(torch.float64), nearest)
    step = torch.tensor([_step(value) for value in nearest.nan_to_num(0, 0, 0).tolist()], dtype=torch.float64)
    wanted = torch.where(nearest.isinf(), nearest, (nearest / step).round() * step)  # round() takes ties to even
    assert torch.equal(read.isnan(), given.isnan())
    assert torch.equal(read[~given.isnan()].double(), wanted[~given.isnan()])
    assert torch.equal(torch.signbit(read), torch.signbit(given))


def _step(value: float) -> float:
    """The distance of bfloat16 numbers at a value: eight significant bits, and subnormals from 2^-126 down."""
    exponent = int(np.frexp(value)[1]) if value else -200
    return float(2.0 ** max(exponent - 8, -133))


def test_the_bits_of_every_upper_half_stay_as_they_are() -> None:
    upper = np.arange(2**16, dtype=np.uint32) << np.uint32(16)
    are_nan = (upper & 0x7FFFFFFF) > 0x7F800000
    read = written(torch.from_numpy(upper.view(np.float32))).numpy().view(np.uint32)
    assert np.array_equal(read[~are_nan], upper[~are_nan])
    assert np.isnan(read[are_nan].view(np.float32)).all()
