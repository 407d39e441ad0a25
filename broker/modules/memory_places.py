"""Where tensors lie in memory: which are the same elements under two names, and which have some of them in common."""

from collections.abc import Mapping
from itertools import combinations

import numpy as np
import torch
from numpy.typing import NDArray

Place = tuple[torch.device, int, torch.dtype, tuple[tuple[int, int], ...]]
"""Device, address, dtype, and (size, stride) of each dimension with more than one element."""


def place_of(tensor: torch.Tensor) -> Place | None:
    """Two tensors with the same place are one; None without elements, which no other tensor can share."""
    if tensor.is_meta or not tensor.numel():
        return None
    dims = tuple((size, step) for size, step in zip(tensor.shape, tensor.stride(), strict=True) if size > 1)
    return (tensor.device, tensor.data_ptr(), tensor.dtype, dims)


def repeats_elements(tensor: torch.Tensor) -> bool:
    """Whether it is expanded, so that to write one element is to write several."""
    return any(size > 1 and step == 0 for size, step in zip(tensor.shape, tensor.stride(), strict=True))


def tied(state: Mapping[str, torch.Tensor]) -> dict[str, str]:
    """The further names of tensors that have several -> the first one. A tied tensor of another shape is not one."""
    first: dict[tuple[Place, torch.Size], str] = {}
    others: dict[str, str] = {}
    for name, tensor in state.items():
        place = place_of(tensor)
        if place is None:
            continue
        of = first.setdefault((place, tensor.shape), name)
        if of != name:
            others[name] = of
    return others


def overlapping(state: Mapping[str, torch.Tensor]) -> list[tuple[str, str]]:
    """The pairs of tensors that have at least one byte in common."""
    in_storage: dict[int, list[str]] = {}
    for name, tensor in state.items():
        if place_of(tensor) is not None:
            in_storage.setdefault(tensor.untyped_storage().data_ptr(), []).append(name)
    return [
        (one, other)
        for names in in_storage.values()
        for one, other in combinations(names, 2)
        if _overlap(state[one], state[other])
    ]


def _overlap(one: torch.Tensor, other: torch.Tensor) -> bool:
    (first, last), (begin, end) = _extent(one), _extent(other)
    if last <= begin or end <= first:
        return False
    if one.dtype != other.dtype:
        return True  # views of the same bytes as different numbers: nobody interleaves those
    return bool(np.intersect1d(_addresses(one), _addresses(other)).size)


def _extent(tensor: torch.Tensor) -> tuple[int, int]:
    """The first byte, and the one after the last."""
    span = sum((size - 1) * step for size, step in zip(tensor.shape, tensor.stride(), strict=True))
    return tensor.data_ptr(), tensor.data_ptr() + (span + 1) * tensor.element_size()


def _addresses(tensor: torch.Tensor) -> NDArray[np.int64]:
    """The address of each element."""
    offsets = np.zeros((), np.int64)
    for size, step in zip(tensor.shape, tensor.stride(), strict=True):
        offsets = np.add.outer(offsets, np.arange(size, dtype=np.int64) * step)
    return offsets.reshape(-1) * tensor.element_size() + tensor.data_ptr()
