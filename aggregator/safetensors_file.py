"""Writing a model as a safetensors file while it is made, piece by piece. The safetensors library reads it.

    offset  size  what
    0       8     length h of the header, unsigned, little-endian
    8       h     JSON: name -> dtype, shape, [begin, end) in the data; and __metadata__; spaces up to a multiple of 8
    8+h     n     the data: the payload of the state as it travels (see broker/tensors.py)

The library's own ``save_file`` wants the model whole and copies it once more; here a tensor is enough.
"""

import json
from itertools import accumulate
from pathlib import Path

from broker.tensors import Buffer, Digest, Specs

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


class SafetensorsFile:
    """A file that takes a payload from its first to its last byte; OSError if the disk does not."""

    def __init__(self, path: Path, specs: Specs, *, round_number: int) -> None:
        header = _header(specs, {"model_sha256": _UNKNOWN_SHA256, "round": str(round_number)})
        self._sha256_at = 8 + header.index(_UNKNOWN_SHA256.encode())
        self._digest = Digest(specs)
        self.file = path.open("wb")
        self.file.write(len(header).to_bytes(8, "little") + header)

    def write(self, piece: Buffer) -> None:
        self._digest.add(piece)
        self.file.write(piece)

    def finish(self) -> str:
        """Writes the digest of what was written into the metadata, and returns it. The file stays open."""
        sha256 = self._digest.hex()
        self.file.seek(self._sha256_at)
        self.file.write(sha256.encode())
        return sha256


def _header(specs: Specs, metadata: dict[str, str]) -> bytes:
    ends = list(accumulate(spec.num_bytes for spec in specs))
    fields: dict[str, object] = {"__metadata__": metadata}
    for spec, end in zip(specs, ends, strict=True):
        offsets = [end - spec.num_bytes, end]
        fields[spec.name] = {"dtype": _NAMES[spec.dtype], "shape": list(spec.shape), "data_offsets": offsets}
    text = json.dumps(fields, separators=(",", ":")).encode()
    return text + b" " * (-len(text) % _ALIGNMENT)
