"""Named tensors as bytes: the payload of a model or an update.

A state (``dict[str, torch.Tensor]``) is laid out as specs.py says. An update carries its delta as a state, or, in a
run that compresses, the state that compression.py makes of the delta.
"""

import math
from collections.abc import Iterator, Mapping
from typing import get_args

import torch

from broker.states.batches import alike, batches_of, joined
from broker.wire import Digest, DtypeName, KeptSpecs, Specs, TensorSpec, canonical, num_bytes_of
from console import UnfitMessage

State = dict[str, torch.Tensor]

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
    for batch in batches_of(specs):
        tensors = [state[spec.name] for spec in batch]
        if not all(tensor.is_cpu for tensor in tensors):
            tensors = [tensor.detach().to("cpu") for tensor in tensors]
        if len(tensors) > 1:
            yield raw(joined(tensors))
            continue
        dense = tensors[0].detach().contiguous()
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


def state_from(payload: bytearray, specs: Specs) -> State:
    """The state whose payload this is. The tensors are views of ``payload``: nothing is copied.

    A size that does not match the specs is an UnfitMessage.
    """
    if len(payload) != num_bytes_of(specs):
        raise UnfitMessage(f"payload has {len(payload)} bytes; its tensors need {num_bytes_of(specs)}")
    state: State = {}
    view = memoryview(payload)
    for batch in batches_of(specs):
        num_bytes = num_bytes_of(batch)
        flat, view = flat_tensor(view[:num_bytes], batch[0].dtype), view[num_bytes:]
        for spec, tensor in zip(batch, torch.split(flat, [spec.num_elements for spec in batch]), strict=True):
            state[spec.name] = tensor if tensor.shape == spec.shape else _reshaped(tensor, spec)
    return state


def _reshaped(tensor: torch.Tensor, spec: TensorSpec) -> torch.Tensor:
    try:
        return tensor.view(spec.shape)
    except RuntimeError as error:  # no elements, but dimensions whose product overflows
        raise UnfitMessage(f"tensor {spec.name!r} has an impossible shape {list(spec.shape)}") from error


def first_not_finite(state: Mapping[str, torch.Tensor]) -> str | None:
    """The name of a tensor that holds NaN or infinity, if there is one."""
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
