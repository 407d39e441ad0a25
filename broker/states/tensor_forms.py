"""The forms in which one tensor of a delta travels, each with encoder and decoder; the format is in compression.py."""

import math
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from broker.states.tensors import DTYPES, State
from broker.wire import Buffer, DtypeName, TensorSpec
from console import UnfitMessage

BLOCK = 256
"""Elements that share a scale of int8."""

MAX_CODE = 127
_MAX_FLOAT32 = float(np.finfo(np.float32).max)
_MAX_SCALE = _MAX_FLOAT32 / (MAX_CODE + 1)
_BATCH = 256 * BLOCK
"""Elements worked on at a time: they stay in the cache."""

Floats = NDArray[np.floating[Any]]
Random = np.random.PCG64
Piece = tuple[int, Buffer]

Reader = Callable[[TensorSpec, int, Buffer], Iterator[Piece]]
"""(spec, first, values) -> pieces of the folded tensor, by byte.

``values`` are those of one of the form's encoded tensors, from element ``first`` on.
"""


class Form(Protocol):
    """How one tensor travels."""

    @property
    def encoded(self) -> tuple[TensorSpec, ...]:
        """What travels in its place."""

    @property
    def folded(self) -> TensorSpec:
        """What is decoded: the tensor, in the dtype of its decoded values."""

    @property
    def is_lossy(self) -> bool:
        """Whether decoded values may differ."""

    def encode(self, tensor: torch.Tensor, random: Random) -> State:
        """The values of ``encoded``; ``tensor`` is finite, on the CPU, and may be of a wider dtype than the delta's."""

    def reader(self) -> Reader:
        """For one body, with values in the order in which they travel. UnfitMessage for any that no encoder writes."""


class Cast:
    """All elements in one dtype: the tensor's own, or a smaller one."""

    def __init__(self, spec: TensorSpec, name: str, dtype: DtypeName) -> None:
        self.folded = spec._replace(dtype=dtype)
        self.encoded = (self.folded._replace(name=name),)
        self.is_lossy = dtype != spec.dtype

    def encode(self, tensor: torch.Tensor, random: Random) -> State:
        dtype = DTYPES[self.folded.dtype]
        if self.is_lossy:
            largest = torch.finfo(dtype).max
            tensor = tensor.clamp(-largest, largest)
        return {self.encoded[0].name: tensor.to(dtype)}

    def reader(self) -> Reader:
        item_bytes = self.folded.item_bytes

        def read(spec: TensorSpec, first: int, values: Buffer) -> Iterator[Piece]:
            yield first * item_bytes, values

        return read


class Int8:
    """Codes of one byte, and a scale for each block of them."""

    is_lossy = True

    def __init__(self, spec: TensorSpec, name: str) -> None:
        self.folded = spec._replace(dtype="float32")
        self._scales = TensorSpec(f"{name}.scales", "float32", (-(-spec.num_elements // BLOCK),))
        self._codes = TensorSpec(f"{name}.codes", "int8", spec.shape)
        self.encoded = (self._scales, self._codes)

    def encode(self, tensor: torch.Tensor, random: Random) -> State:
        values = _flat(tensor)
        scales = np.empty(self._scales.num_elements, np.float32)
        codes = np.empty(len(values), np.int8)
        for first in range(0, len(values), _BATCH):
            batch = values[first : first + _BATCH]
            blocks = slice(first // BLOCK, first // BLOCK - (-len(batch) // BLOCK))
            scales[blocks], codes[first : first + _BATCH] = _quantized(batch, random)
        return {
            self._scales.name: torch.from_numpy(scales),
            self._codes.name: torch.from_numpy(codes).reshape(self._codes.shape),
        }

    def reader(self) -> Reader:
        scales = np.empty(self._scales.num_elements, np.float32)

        def read(spec: TensorSpec, first: int, values: Buffer) -> Iterator[Piece]:
            if spec == self._scales:
                some = np.frombuffer(values, np.float32)
                _demand(
                    bool(np.all((some >= 0) & (some <= _MAX_SCALE))), f"a scale of '{self.folded.name}' out of range"
                )
                scales[first : first + len(some)] = some
                return
            codes = np.frombuffer(values, np.int8)
            _demand(int(codes.min(initial=0)) >= -MAX_CODE, f"a code of '{self.folded.name}' below -{MAX_CODE}")
            for start, stop in _batches(first, first + len(codes)):
                decoded = _dequantized(codes[start - first : stop - first], scales, start)
                yield start * decoded.itemsize, _raw(decoded)

        return read


class TopK:
    """The largest elements and where they are; all others are 0."""

    is_lossy = True

    def __init__(self, spec: TensorSpec, name: str, share: float) -> None:
        self.folded = spec._replace(dtype="float32")
        num_kept = min(spec.num_elements, math.ceil(share * spec.num_elements))
        self._gaps = TensorSpec(f"{name}.gaps", "int32", (num_kept,))
        self._values = TensorSpec(f"{name}.values", "float32", (num_kept,))
        self.encoded = (self._gaps, self._values)

    def encode(self, tensor: torch.Tensor, random: Random) -> State:
        values = _flat(tensor)
        where = _largest(values, self._gaps.num_elements)
        gaps = np.diff(where, prepend=-1).astype(np.int32)
        kept = np.clip(values[where], -_MAX_FLOAT32, _MAX_FLOAT32).astype(np.float32)
        return {self._gaps.name: torch.from_numpy(gaps), self._values.name: torch.from_numpy(kept)}

    def reader(self) -> Reader:
        held: dict[TensorSpec, NDArray[Any]] = {}  # of the tensor that is coming in, and only while it does

        def read(spec: TensorSpec, first: int, values: Buffer) -> Iterator[Piece]:
            if spec not in held:
                held[spec] = np.empty(spec.num_elements, np.int32 if spec == self._gaps else np.float32)
            into = held[spec]
            some = np.frombuffer(values, into.dtype)
            into[first : first + len(some)] = some
            if spec == self._values and first + len(some) == len(into):
                yield from self._scattered(held.pop(self._gaps), held.pop(self._values))

        return read

    def _scattered(self, gaps: NDArray[np.int32], kept: NDArray[np.float32]) -> Iterator[Piece]:
        """The batches that are not all 0; those left out add nothing."""
        name, num_elements = self.folded.name, self.folded.num_elements
        _demand(int(gaps.min()) >= 1, f"elements of '{name}' that are not in rising order")
        where = np.cumsum(gaps, dtype=np.int64) - 1
        _demand(int(where[-1]) < num_elements, f"an element that '{name}' does not have")
        _demand(bool(np.isfinite(kept).all()), f"NaN or infinity in '{name}'")
        for start, stop in _batches(0, num_elements):
            low, high = np.searchsorted(where, (start, stop))
            if low < high:
                dense = np.zeros(stop - start, np.float32)
                dense[where[low:high] - start] = kept[low:high]
                yield start * dense.itemsize, _raw(dense)


def _quantized(values: Floats, random: Random) -> tuple[NDArray[np.float32], NDArray[np.int8]]:
    """Scales and codes of some blocks. Without a scale (all 0, or too small for one) the codes are 0."""
    blocks = np.zeros((-(-len(values) // BLOCK), BLOCK))
    blocks.reshape(-1)[: len(values)] = values
    scales = np.minimum(np.abs(blocks).max(axis=1) / MAX_CODE, _MAX_SCALE).astype(np.float32)
    np.divide(blocks, scales[:, np.newaxis], out=blocks, where=scales[:, np.newaxis] > 0)
    blocks[scales == 0] = 0
    blocks += random.random_raw(blocks.size // 2).view(np.uint32).reshape(blocks.shape) * 2.0**-32
    np.floor(blocks, out=blocks)
    np.clip(blocks, -MAX_CODE, MAX_CODE, out=blocks)
    return scales, blocks.reshape(-1)[: len(values)].astype(np.int8)


def _largest(values: Floats, num: int) -> NDArray[np.int64]:
    """The indices of the ``num`` largest magnitudes, rising; the first of equal ones. The same on every processor."""
    magnitudes = np.abs(values)
    threshold = np.partition(magnitudes, len(values) - num)[len(values) - num]
    above = np.flatnonzero(magnitudes > threshold)
    equal = np.flatnonzero(magnitudes == threshold)[: num - len(above)]
    return np.sort(np.concatenate((above, equal)))


def _dequantized(codes: NDArray[np.int8], scales: NDArray[np.float32], start: int) -> NDArray[np.float32]:
    """The values of codes from element ``start`` of a tensor on."""
    first, lead = divmod(start, BLOCK)
    if lead == 0 and len(codes) % BLOCK == 0:
        blocks = codes.reshape(-1, BLOCK)
        return np.multiply(blocks, scales[first : first + len(blocks), np.newaxis], dtype=np.float32).reshape(-1)
    stop = start + len(codes)
    spread = np.repeat(scales[first : -(-stop // BLOCK)], BLOCK)[lead : lead + len(codes)]
    return np.multiply(codes, spread, dtype=np.float32)


def _batches(start: int, stop: int) -> Iterator[tuple[int, int]]:
    """From ``start`` to ``stop``, cut at multiples of the batch, and so of the block."""
    while start < stop:
        end = min(stop, start - start % _BATCH + _BATCH)
        yield start, end
        start = end


def _flat(tensor: torch.Tensor) -> Floats:
    """The tensor as a flat array; half precision, which may be bfloat16, as float32."""
    wide = tensor if tensor.dtype == torch.float64 else tensor.to(torch.float32)
    flat: Floats = wide.contiguous().reshape(-1).numpy()
    return flat


def _raw(values: NDArray[Any]) -> memoryview:
    return memoryview(values.view(np.uint8))  # type: ignore[arg-type]


def _demand(holds: bool, otherwise: str) -> None:
    if not holds:
        raise UnfitMessage(f"its body has {otherwise}")
