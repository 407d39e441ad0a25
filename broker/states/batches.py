"""Small tensors taken many at a time: a call into PyTorch costs as much as some thousand elements.

A batch is a run of neighbours of one dtype, as long as they are small together; a larger tensor is a batch alone.
"""

from collections.abc import Iterable, Iterator, Sequence

import torch

from broker.wire import Specs, TensorSpec

_MOST_BYTES = 2**18
"""Of a batch of several: what is copied to bring them together stays in the processor's cache."""


def batches_of(specs: Specs) -> Iterator[Specs]:
    """The specs, in their order, in batches."""
    batch: list[TensorSpec] = []
    room, dtype = 0, ""
    for spec in specs:
        num_bytes = spec.num_bytes
        if batch and (num_bytes > room or spec.dtype != dtype):
            yield tuple(batch)
            batch = []
        if not batch:
            room, dtype = _MOST_BYTES, spec.dtype
        batch.append(spec)
        room -= num_bytes
    if batch:
        yield tuple(batch)


def alike(tensors: Iterable[torch.Tensor]) -> Iterator[list[torch.Tensor]]:
    """The tensors, in their order, in batches of one dtype that are on one device."""
    batch: list[torch.Tensor] = []
    room = 0
    for tensor in tensors:
        num_bytes = tensor.nbytes
        if batch and (num_bytes > room or tensor.dtype != batch[0].dtype or tensor.device != batch[0].device):
            yield batch
            batch = []
        if not batch:
            room = _MOST_BYTES
        batch.append(tensor)
        room -= num_bytes
    if batch:
        yield batch


def joined(tensors: Sequence[torch.Tensor]) -> torch.Tensor:
    """The elements of tensors of one dtype on one device, flat and one after the other, without their gradients."""
    with torch.no_grad():
        return torch._C._nn.flatten_dense_tensors(list(tensors))
