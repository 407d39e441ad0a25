"""Writing a model as a safetensors file while it is made, piece by piece, and reading it back the same way.

    offset  size  what
    0       8     length h of the header, unsigned, little-endian
    8       h     JSON: name -> dtype, shape, [begin, end) in the data; and __metadata__; spaces up to a multiple of 8
    8+h     n     the data: the payload of the state as it travels (see broker/wire/specs.py)

The safetensors library reads these files, too. Its own ``save_file`` needs the whole model and copies it once more;
here a tensor is enough. The library maps what it reads, so the whole file counts as memory; and it gives one tensor at
a time, where small ones are better read together.
"""

import json
from collections.abc import Iterator
from functools import lru_cache
from itertools import accumulate
from pathlib import Path

from broker.wire import Buffer, Digest, Specs, num_bytes_of
from console.durable import write_all

_NAMES = {
    "float64": "F64",
    "float32": "F32",
    "float16": "F16",
    "bfloat16": "BF16",
    "int64": "I64",
    "int32": "I32",
    "int16": "I16",
    "int8": "I8",
    "uint8": "U8",
    "bool": "BOOL",
}
_UNKNOWN_SHA256 = "0" * 64
_ALIGNMENT = 8
_PIECE_BYTES = 2**20


class SafetensorsFile:
    """A file that takes a payload from its first to its last byte; an OSError if it cannot be written."""

    def __init__(self, path: Path, specs: Specs, *, round_number: int) -> None:
        header = _header(specs, {"model_sha256": _UNKNOWN_SHA256, "round": str(round_number)})
        self._sha256_at = 8 + header.index(_UNKNOWN_SHA256.encode())
        self._digest = Digest(specs)
        self.file = path.open("wb")
        self.file.write(len(header).to_bytes(8, "little") + header)

    def write(self, piece: Buffer) -> None:
        self._digest.add(piece)
        write_all(self.file, piece)

    def finish(self) -> str:
        """Writes the digest of what was written into the metadata, and returns it. The file stays open."""
        sha256 = self._digest.hex()
        self.file.seek(self._sha256_at)
        self.file.write(sha256.encode())
        return sha256


class SafetensorsData:
    """The data of a file that ``SafetensorsFile`` wrote for the same specs, read from its first to its last byte.

    A ValueError if it is not such a file or ends early; an OSError if it cannot be read.
    """

    def __init__(self, path: Path, specs: Specs) -> None:
        self.file = path.open("rb", buffering=0)
        length = int.from_bytes(self.file.read(8), "little")
        num_bytes = path.stat().st_size - 8 - length
        if num_bytes != num_bytes_of(specs) or not self.file.read(length).rstrip(b" ").endswith(_tensors(specs)):
            self.file.close()
            raise ValueError("it does not hold these tensors, or not all of their data")

    def pieces(self, num_bytes: int) -> Iterator[bytearray]:
        """The next ``num_bytes`` bytes, in pieces that stay in the cache while in use; at least one piece."""
        for start in range(0, max(1, num_bytes), _PIECE_BYTES):
            yield self._read(min(_PIECE_BYTES, num_bytes - start))

    def _read(self, num_bytes: int) -> bytearray:
        data = bytearray(num_bytes)
        view = memoryview(data)
        while view:
            num_read = self.file.readinto(view)
            if not num_read:
                raise ValueError("it ends early")
            view = view[num_read:]
        return data


def _header(specs: Specs, metadata: dict[str, str]) -> bytes:
    text = b'{"__metadata__":' + _json(metadata) + _tensors(specs)
    return text + b" " * (-len(text) % _ALIGNMENT)


@lru_cache(maxsize=2)
def _tensors(specs: Specs) -> bytes:
    """The part of the header that describes the tensors, from the comma before them to its end."""
    ends = accumulate(spec.num_bytes for spec in specs)
    fields = {
        spec.name: {
            "dtype": _NAMES[spec.dtype],
            "shape": list(spec.shape),
            "data_offsets": [end - spec.num_bytes, end],
        }
        for spec, end in zip(specs, ends, strict=True)
    }
    return b"," + _json(fields)[1:] if fields else b"}"


def _json(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()
