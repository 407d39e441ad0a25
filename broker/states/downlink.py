"""How the body of a model travels to the workers: as it is, or with most of its float32 in half the bytes.

With ``bfloat16``, a float32 tensor of the model that has two dimensions or more, or more than 4,096 elements, travels
as bfloat16: the upper 16 bits of each value, rounded half to even; a finite one that would become infinite is cut to
the largest number. All others (biases, norms, running statistics, integers, float64, the tensors of other sets) travel
as they are. The order is that of the head's ``tensors``, which are those of the model: what is read has their dtypes,
in which the rounded values are exact, and the head's digest is over what is read.

It is done in integers, so that the same model gives the same bytes on any processor.
"""

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
from numpy.typing import NDArray

from broker.states.compression import is_small
from broker.wire import Buffer, Downlink, ModelHead, Specs, TensorSpec, num_bytes_of, tensor_sets
from console import UnfitMessage

_BATCH = 2**16
"""Elements that are rounded at a time: they stay in the cache."""
_ROUNDS_TO_INFINITY, _BITS_OF_THAT = float.fromhex("0x1.ffp127"), 0x7F7F8000
"""The least number that would be rounded to infinity, and its bits; those of infinity and NaN are above."""
_INFINITY, _LARGEST, _QUIET = 0x7F800000, 0x7F7F, 0x40

Codes = NDArray[np.uint16]
Bits = NDArray[np.uint32]


@dataclass(frozen=True, slots=True)
class _Run:
    """Neighbours that travel in the same way."""

    num_bytes: int
    """Of what is read."""
    is_halved: bool

    @property
    def num_sent(self) -> int:
        return self.num_bytes // 2 if self.is_halved else self.num_bytes


class ModelForm:
    """How a body with these specs travels; ``sets`` are those besides the model's."""

    def __init__(self, specs: Specs, downlink: Downlink, sets: Collection[str] = ()) -> None:
        self._runs = list(_runs(specs, sets)) if downlink == "bfloat16" else [_Run(num_bytes_of(specs), False)]
        self.num_bytes = sum(run.num_sent for run in self._runs)
        """What travels."""
        self.is_plain = not any(run.is_halved for run in self._runs)
        """Whether it travels as it is."""

    @classmethod
    def of(cls, head: ModelHead) -> "ModelForm":
        return cls(head.tensors, head.downlink, head.sets)

    def writer(self) -> "Writer":
        """For one body that is sent."""
        return Writer(self._runs)

    def reader(self) -> "Reader":
        """For one body that is received."""
        return Reader(self._runs)


class Writer:
    """Takes a state piece by piece, in order and cut between elements."""

    def __init__(self, runs: Iterable[_Run]) -> None:
        self._cut = _Along((run.num_bytes, run.is_halved) for run in runs)
        self._room = np.empty(_BATCH, np.uint32)

    def pieces(self, piece: Buffer) -> Iterator[tuple[Buffer, Buffer]]:
        """(what is read of it, what travels), piece by piece; the first holds until the next one is asked for."""
        for is_halved, part in self._cut.of(piece):
            if not is_halved:
                yield part, part
                continue
            values = np.frombuffer(part, np.uint32)
            for start in range(0, len(values), _BATCH):
                batch = values[start : start + _BATCH]
                codes, room = np.empty(len(batch), np.uint16), self._room[: len(batch)]
                _round(batch, codes, room)
                _widen(codes, room)
                yield _raw(room), _raw(codes)


class Reader:
    """Takes a body piece by piece, in order."""

    def __init__(self, runs: Iterable[_Run]) -> None:
        self._cut = _Along((run.num_sent, run.is_halved) for run in runs)

    def read(self, piece: Buffer, into: memoryview) -> int:
        """Writes what it stands for to the beginning of ``into``; returns how many bytes that are.

        UnfitMessage if it is cut within an element.
        """
        begin = 0
        for is_halved, part in self._cut.of(piece):
            if is_halved and len(part) % 2:
                raise UnfitMessage("its body is cut within an element")
            end = begin + len(part) * (2 if is_halved else 1)
            if is_halved:
                _widen(np.frombuffer(part, np.uint16), np.frombuffer(into[begin:end], np.uint32))
            else:
                into[begin:end] = part
            begin = end
        return begin


class _Along:
    """Cuts pieces where one run of bytes ends and the next begins."""

    def __init__(self, runs: Iterable[tuple[int, bool]]) -> None:
        self._runs = iter(runs)
        self._left, self._is_halved = 0, False

    def of(self, piece: Buffer) -> Iterator[tuple[bool, memoryview]]:
        view = memoryview(piece).cast("B")
        while len(view):
            while not self._left:
                self._left, self._is_halved = next(self._runs, (len(view), False))
            part, view = view[: self._left], view[self._left :]
            self._left -= len(part)
            yield self._is_halved, part


def _is_halved(spec: TensorSpec, sets: Collection[str]) -> bool:
    of_model = tensor_sets.place(spec.name, sets)[0] == tensor_sets.MODEL
    return spec.dtype == "float32" and of_model and not is_small(spec)


def _runs(specs: Specs, sets: Collection[str]) -> Iterator[_Run]:
    for is_halved, alike in groupby(specs, key=lambda spec: _is_halved(spec, sets)):
        yield _Run(sum(spec.num_bytes for spec in alike), is_halved)


def _round(bits: Bits, codes: Codes, room: Bits) -> None:
    """Writes the upper halves of float32 values, rounded half to even, to ``codes``; infinity stays, and NaN stays NaN.

    ``room`` is overwritten.
    """
    np.right_shift(bits, 16, out=room)
    room &= np.uint32(1)
    room += np.uint32(0x7FFF)
    room += bits
    codes[:] = room.view(np.uint16)[1::2]
    values = bits.view(np.float32)
    if not (values.max() < _ROUNDS_TO_INFINITY and values.min() > -_ROUNDS_TO_INFINITY):  # NaN is neither
        magnitude = bits & np.uint32(0x7FFFFFFF)
        are_special = magnitude >= _BITS_OF_THAT
        codes[are_special] = _special(magnitude[are_special], bits[are_special] >> np.uint32(16))


def _special(magnitude: Bits, upper: Bits) -> Codes:
    largest = (upper & np.uint32(0x8000)) | np.uint32(_LARGEST)
    beyond = np.where(magnitude == _INFINITY, upper, upper | np.uint32(_QUIET))
    return np.where(magnitude < _INFINITY, largest, beyond).astype(np.uint16)


def _widen(codes: Codes, into: Bits) -> None:
    np.left_shift(codes, 16, out=into, dtype=np.uint32)


def _raw(values: NDArray[Any]) -> memoryview:
    return memoryview(values.view(np.uint8))  # type: ignore[arg-type]
