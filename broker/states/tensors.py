"""Named tensors as bytes: the payload of a model or an update.

A state (tensors by name) is laid out as specs.py says. An update carries its delta as a state, or, in a
run that compresses, the state that compression.py makes of the delta.
"""

import math
from collections.abc import Iterator, Mapping
from typing import get_args

import torch

from broker.states.batches import Batched, alike, batches_of, joined, shaped
from broker.wire import Digest, DtypeName, KeptSpecs, Specs, TensorSpec, canonical, kept
from console import UnfitMessage

State = Mapping[str, torch.Tensor]

DTYPES: dict[str, torch.dtype] = {name: getattr(torch, name) for name in get_args(DtypeName)}
_NAMES = {dtype: name for name, dtype in DTYPES.items()}


def specs_of(state: Mapping[str, torch.Tensor]) -> KeptSpecs:
    """The specs of a state, in canonical order. A dtype that cannot travel is an UnfitMessage."""
    return canonical(_spec_of(name, tensor) for name, tensor in state.items())


def _spec_of(name: str, tensor: torch.Tensor) -> TensorSpec:
    dtype = _NAMES.get(tensor.dtype)
    if dtype is None:
        raise UnfitMessage(
            f"tensor {name!r} is of dtype {tensor.dtype}, which cannot travel; use one of {', '.join(DTYPES)}"
        )
    return TensorSpec(name, dtype, tuple(tensor.shape))  # type: ignore[arg-type]


def chunks(state: Mapping[str, torch.Tensor], specs: Specs) -> Iterator[memoryview]:
    """The payload of a state, one tensor or a batch of small ones at a time.

    A chunk is a view of its tensor's memory; only small tensors, and what is not contiguous on the CPU, are copied.
    """
    for _, batch in batches_of(state, specs):
        dense = batch.detach().to("cpu").contiguous()
        yield raw(dense.as_strided((dense.numel(),), (1,)))  # one element or none is contiguous with any stride


def raw(flat: torch.Tensor) -> memoryview:
    """The bytes of a flat tensor; nothing is copied."""
    return memoryview(flat.view(torch.uint8).numpy())  # type: ignore[arg-type]


def flat_tensor(data: bytearray | memoryview, dtype: DtypeName) -> torch.Tensor:
    """A flat tensor over these bytes, which must be writable; nothing is copied."""
    return torch.frombuffer(data, dtype=DTYPES[dtype]) if data else torch.empty(0, dtype=DTYPES[dtype])


def digest_of(state: Mapping[str, torch.Tensor]) -> str:
    """The SHA-256 over names, dtypes, shapes and bytes, as specs.py defines it; 64 hex digits."""
    specs = specs_of(state)
    digest = Digest(specs)
    for _ in digest.of(chunks(state, specs)):
        pass
    return digest.hex()


def state_from(payload: bytearray | memoryview, specs: Specs) -> Batched:
    """The state whose payload this is. The tensors are views of ``payload``: nothing is copied.

    A size that does not match the specs is an UnfitMessage, and so is a shape that no tensor can have.
    """
    specs = kept(specs)
    if len(payload) != specs.num_bytes:
        raise UnfitMessage(f"payload has {len(payload)} bytes; its tensors need {specs.num_bytes}")
    batches, view = [], memoryview(payload)
    for batch in specs.batches:
        flat, view = flat_tensor(view[: batch.num_bytes], batch[0].dtype), view[batch.num_bytes :]
        batches.append(shaped(flat, batch[0]) if len(batch) == 1 else flat)
    for spec in specs.empty:
        shaped(torch.empty(0), spec)
    return Batched(specs, batches)


def first_not_finite(state: Mapping[str, torch.Tensor]) -> str | None:
    """The name of a tensor that holds NaN or infinity, if there is one."""
    if isinstance(state, Batched) and all(map(is_finite, state.batches)):
        return None
    floats = {name: tensor for name, tensor in state.items() if tensor.is_floating_point()}
    if all(is_finite(batch[0] if len(batch) == 1 else joined(batch)) for batch in alike(floats.values())):
        return None
    return next(name for name, tensor in floats.items() if not is_finite(tensor))


def is_finite(tensor: torch.Tensor) -> bool:
    """Whether it holds neither NaN nor infinity. One pass that allocates nothing: NaN makes both extremes NaN."""
    if not (tensor.is_floating_point() and tensor.numel()):
        return True
    lowest, highest = torch.aminmax(tensor)
    return math.isfinite(lowest.item()) and math.isfinite(highest.item())
