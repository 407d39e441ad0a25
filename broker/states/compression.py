"""A delta in fewer bytes, and back: the encoded form of an update. Pure; both sides agree on every bit of it.

What travels in place of a delta is again a set of named tensors (see specs.py), whose specs follow from those of
the delta and the method alone. So its size is known, and checked, before a byte of it is read.

    none              the delta
    float16, bfloat16 each tensor in this dtype, under its own name; values out of range are clamped to the largest
    int8              12.scales float32, one for each block of 256 elements (the last block may be shorter), and
                      12.codes  int8, -127 to 127, of the tensor's shape: an element is code * scale
    topk:SHARE        12.gaps   int32: the distance of each element that travels from the one before (at first -1), and
                      12.values float32: these elements, the largest by magnitude; all others are 0

12 is the tensor's place in the delta's canonical order, padded with zeros to as many digits as the number of tensors
has. Scales precede all codes, and gaps directly precede their values, so a body is decoded piece by piece as it comes.
With topk, ceil(SHARE * elements) elements of a tensor travel.

A tensor travels as it is (with int8 and topk as 12.plain) if that is not larger; if it is not floating-point; if it
has fewer than two dimensions and at most 4,096 elements (biases, norms and running statistics: few bytes, and a
variance must stay positive); or if it has 2**31 elements or more.

int8 rounds stochastically, to one of the two nearest codes and on average to the value (QSGD: Alistarh et al. 2017),
with random numbers from a seed: the same delta and seed give the same bytes.
"""

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from itertools import accumulate

import numpy as np
import torch

from broker.states.tensor_forms import Cast, Form, Int8, Piece, Random, Reader, TopK
from broker.states.tensors import DTYPES, State, chunks
from broker.wire import Buffer, Compression, Specs, TensorSpec, canonical, kept, limb_bytes_of, num_bytes_of

_FEW = 4096
_TOO_MANY = 2**31


class Encoding:
    """How deltas of given specs travel under a compression."""

    def __init__(self, specs: Specs, compression: Compression) -> None:
        self.compression = compression
        self.specs = specs
        """Specs of the delta."""
        as_it_is = kept(specs) if compression.method == "none" else None
        self.encoded = as_it_is or canonical(spec for form in self._forms.values() for spec in form.encoded)
        """Specs of what travels."""
        self.folded = as_it_is or canonical(form.folded for form in self._forms.values())
        """Specs of what is decoded: the delta, in the dtypes of its decoded values."""
        self.lossy = () if as_it_is else tuple(spec for spec in specs if self._forms[spec.name].is_lossy)
        """Specs of the delta's tensors that may be decoded to other values."""

    @cached_property
    def _forms(self) -> dict[str, Form]:
        """Of each tensor; those of thousands take a while, and a delta that travels as it is needs none."""
        width = len(str(len(self.specs)))
        named = enumerate(self.specs)
        return {spec.name: _form(spec, f"{index:0{width}d}", self.compression) for index, spec in named}

    @cached_property
    def _places(self) -> dict[str, int]:
        return {spec.name: place for place, spec in enumerate(self.specs)}

    @property
    def is_direct(self) -> bool:
        """What travels is what is folded: there is nothing to decode."""
        return self.encoded == self.folded

    @property
    def sum_bytes(self) -> int:
        """The size of a sum of updates as it travels."""
        return limb_bytes_of(self.folded)

    def encode(self, delta: Mapping[str, torch.Tensor], *, seed: int) -> State:
        """What travels in place of a whole delta; see ``encode_tensor``."""
        state: dict[str, torch.Tensor] = {}
        for spec in self.specs:
            state |= self.encode_tensor(spec, delta[spec.name], seed=seed)
        return state

    def encode_tensor(self, spec: TensorSpec, tensor: torch.Tensor, *, seed: int) -> State:
        """What travels in place of one tensor; one in ``lossy`` may be float32 or float64, whatever its spec says."""
        random = Random(np.random.SeedSequence([seed, self._places[spec.name]]))
        return self._forms[spec.name].encode(tensor.detach().to("cpu"), random)

    def decoded(self, encoded: Mapping[str, torch.Tensor], spec: TensorSpec) -> torch.Tensor:
        """One tensor of the delta as the other side gets it."""
        form = self._forms[spec.name]
        decoder, offset = Decoder([form]), 0
        raw = np.zeros(form.folded.num_bytes, np.uint8)
        for chunk in chunks(encoded, canonical(form.encoded)):
            for start, piece in decoder.pieces(offset, chunk):
                raw[start : start + len(piece)] = np.frombuffer(piece, np.uint8)
            offset += len(chunk)
        return torch.from_numpy(raw).view(DTYPES[form.folded.dtype]).reshape(spec.shape)

    def folded_from(self, body: Iterable[Piece]) -> Iterator[Piece]:
        """(offset, bytes) of what is folded from a body that comes in pieces, in order and cut between elements.

        UnfitMessage for numbers that no encoder writes.
        """
        if self.is_direct:
            yield from body
            return
        decoder = self.decoder()
        for offset, piece in body:
            yield from decoder.pieces(offset, piece)

    def decoder(self) -> "Decoder":
        """A decoder for one body."""
        return Decoder(list(self._forms.values()))


class Decoder:
    """Takes an encoded body piece by piece, in order, and gives pieces of the delta to fold.

    It holds the scales of int8, or what travels of one tensor with topk, but never a whole delta.
    """

    def __init__(self, forms: Sequence[Form]) -> None:
        folded_starts = _starts(canonical(form.folded for form in forms))
        self._sources: dict[str, tuple[Reader, int]] = {}
        for form in forms:
            reader = form.reader()
            self._sources |= {spec.name: (reader, folded_starts[form.folded.name]) for spec in form.encoded}
        self._specs = canonical(spec for form in forms for spec in form.encoded)
        self._offsets = list(_starts(self._specs).values())

    def pieces(self, offset: int, piece: Buffer) -> Iterator[Piece]:
        """(offset, bytes) of the delta, from a piece that begins at byte ``offset`` of the body.

        ``piece`` must be cut between elements. UnfitMessage for numbers that no encoder writes.
        """
        view = memoryview(piece)
        end = offset + len(view)
        for index in range(max(0, bisect_right(self._offsets, offset) - 1), len(self._specs)):
            spec, start = self._specs[index], self._offsets[index]
            if start >= end:
                return
            low, high = max(start, offset), min(start + spec.num_bytes, end)
            if low < high:
                reader, folded_start = self._sources[spec.name]
                for place, values in reader(spec, (low - start) // spec.item_bytes, view[low - offset : high - offset]):
                    yield folded_start + place, values


def is_small(spec: TensorSpec) -> bool:
    """Whether a tensor travels as it is because little would be saved, such as a bias or a norm's weight."""
    return len(spec.shape) < 2 and spec.num_elements <= _FEW


def _form(spec: TensorSpec, place: str, compression: Compression) -> Form:
    if compression.method == "none":
        return Cast(spec, spec.name, spec.dtype)
    if compression.method in ("float16", "bfloat16"):
        own: Form = Cast(spec, spec.name, spec.dtype)
        smaller: Form = Cast(spec, spec.name, compression.method)
    else:
        own = Cast(spec, f"{place}.plain", spec.dtype)
        smaller = _numbered(spec, place, compression)
    is_smaller = num_bytes_of(smaller.encoded) < spec.num_bytes
    return smaller if spec.is_float and is_smaller and not is_small(spec) and spec.num_elements < _TOO_MANY else own


def _numbered(spec: TensorSpec, name: str, compression: Compression) -> Form:
    if compression.share is None:
        return Int8(spec, name)
    return TopK(spec, name, compression.share)


def _starts(specs: Specs) -> dict[str, int]:
    """Tensor name -> the byte at which it begins."""
    ends = accumulate((spec.num_bytes for spec in specs), initial=0)
    return dict(zip((spec.name for spec in specs), ends, strict=False))
