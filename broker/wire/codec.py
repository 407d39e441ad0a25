"""One message as bytes, and back. The wire format, version 1:

    offset  size  what
    0       4     b"FMQ" and the version, one byte: 1
    4       4     length h of the header, unsigned, little-endian; at most 4 MiB
    8       h     the header: one msgpack map; its keys are the fields in messages.py
    8+h     p     zero bytes up to the next multiple of 64
    8+h+p   n     the payload: the tensors' bytes, as specs.py says; empty when the header names a blob

A blob holds the payload alone, cut into parts. With zstd (see zstd.py) the payload, or each part, is one frame, and n
is its size; ``tensors`` and ``sha256`` describe its content. A message has no pickle, no code and no extension types,
and decoding trusts nothing: every size is checked against what was announced before anything is allocated for it.
"""

from functools import lru_cache
from itertools import chain
from typing import TypeVar

import msgpack
from pydantic import TypeAdapter, ValidationError

from broker.wire.buffers import Buffer
from broker.wire.messages import MAX_TENSORS, Header, Tensors
from broker.wire.specs import KeptSpecs, TensorSpec, kept
from console import MalformedMessage

VERSION = 1
MAX_HEADER_BYTES = 4 * 2**20
_MAGIC = b"FMQ"
_PREFIX_BYTES = 8
_ALIGNMENT = 64

_SPEC = TypeAdapter(TensorSpec)
_REMEMBERED_BYTES = 2**16
"""Specs up to this size, those of about a thousand tensors, are remembered: all messages of a run have the same."""

H = TypeVar("H", bound=Header)


def encode(header: Header, payload: Buffer = b"") -> bytes:
    """The message as one ``bytes``. A header over 4 MiB is a MalformedMessage."""
    packed = _packed(header)
    if len(packed) > MAX_HEADER_BYTES:
        raise MalformedMessage(f"header of {len(packed)} bytes; at most {MAX_HEADER_BYTES} can travel")
    prefix = _MAGIC + bytes([VERSION]) + len(packed).to_bytes(4, "little")
    padding = bytes(_payload_offset(len(packed)) - _PREFIX_BYTES - len(packed))
    return b"".join((prefix, packed, padding, payload))


def _packed(header: Header) -> bytes:
    """The header's fields as a map. The specs of tensors, which come first, are packed already."""
    if not isinstance(header, Tensors):
        return msgpack.packb(header.model_dump(mode="python"))  # type: ignore[no-any-return]
    packer = msgpack.Packer()
    others = header.model_dump(mode="python", exclude={"tensors"})
    first = [packer.pack_map_header(1 + len(others)), packer.pack("tensors"), kept(header.tensors).packed]
    return b"".join(chain(first, map(packer.pack, chain.from_iterable(others.items()))))


def decode(body: Buffer, kind: type[H]) -> tuple[H, memoryview]:
    """The validated header, and the payload as a view of ``body``.

    Whatever is wrong with the message, a MalformedMessage names it.
    """
    view = memoryview(body)
    header_bytes = _header_length(view)
    packed = view[_PREFIX_BYTES : _PREFIX_BYTES + header_bytes]
    offset = _payload_offset(header_bytes)
    if len(view) < offset:
        raise MalformedMessage(f"message is cut off: {len(view)} bytes, its header alone needs {offset}")
    if any(view[_PREFIX_BYTES + header_bytes : offset]):
        raise MalformedMessage("padding after the header is not zero")
    return _validated(_unpacked(packed), kind), view[offset:]


def _header_length(view: memoryview) -> int:
    start = bytes(view[:_PREFIX_BYTES])
    if not start.startswith(_MAGIC):
        raise MalformedMessage(f"not a fedmq message: it begins with {start.hex(' ') or 'nothing'}")
    if len(start) < _PREFIX_BYTES:
        raise MalformedMessage(f"message is cut off after {len(start)} bytes")
    if start[3] != VERSION:
        raise MalformedMessage(f"message format {start[3]}; this fedmq reads format {VERSION}")
    length = int.from_bytes(start[4:8], "little")
    if length > MAX_HEADER_BYTES:
        raise MalformedMessage(f"header of {length} bytes announced; at most {MAX_HEADER_BYTES} are read")
    return length


def _payload_offset(header_bytes: int) -> int:
    end = _PREFIX_BYTES + header_bytes
    return end + -end % _ALIGNMENT


def _unpacker(packed: Buffer) -> msgpack.Unpacker:
    unpacker = msgpack.Unpacker(
        raw=False,
        strict_map_key=True,
        read_size=len(packed) or 1,  # what is allocated at first; by default a megabyte
        max_buffer_size=MAX_HEADER_BYTES,
        max_str_len=4096,
        max_bin_len=0,
        max_ext_len=0,
        max_array_len=1024,
        max_map_len=1024,
    )
    unpacker.feed(packed)
    return unpacker


def _unpacked(packed: memoryview) -> dict[str, object]:
    """The fields. Only ``tensors`` may be long, and it is read tensor by tensor: nothing else has room to grow."""
    unpacker = _unpacker(packed)
    fields: dict[str, object] = {}
    try:
        for _ in range(unpacker.read_map_header()):
            name = unpacker.unpack()
            if not isinstance(name, str) or name in fields:
                raise MalformedMessage("header has a key that is no string, or the same key twice")
            if name == "tensors":
                begin = unpacker.tell()
                unpacker.skip()
                fields[name] = _tensors(packed[begin : unpacker.tell()])
            else:
                fields[name] = unpacker.unpack()
        if unpacker.tell() != len(packed):
            raise MalformedMessage("header has bytes after its map")
    except (ValueError, msgpack.UnpackException) as error:
        raise MalformedMessage(f"header is not valid msgpack: {str(error) or type(error).__name__}") from error
    return fields


def _tensors(packed: memoryview) -> KeptSpecs:
    return _remembered(bytes(packed)) if len(packed) <= _REMEMBERED_BYTES else _specs(packed)


def _specs(packed: Buffer) -> KeptSpecs:
    """The specs; stops at the first wrong one, since 100,000 errors would take more room than the message."""
    unpacker = _unpacker(packed)
    number = unpacker.read_array_header()
    if number > MAX_TENSORS:
        raise MalformedMessage(f"header announces {number} tensors; at most {MAX_TENSORS} are read")
    specs = []
    for index in range(number):
        try:
            specs.append(_SPEC.validate_python(unpacker.unpack()))
        except ValidationError as error:
            raise MalformedMessage(f"tensors.{index}: {_first_problem(error)}") from error
    return KeptSpecs(specs)


_remembered = lru_cache(maxsize=4)(_specs)


def _validated(fields: object, kind: type[H]) -> H:
    try:
        return kind.model_validate(fields)
    except ValidationError as error:
        raise MalformedMessage(f"{kind.__name__} {_first_problem(error)}") from error


def _first_problem(error: ValidationError) -> str:
    """The first problem in words for a person, with what the sender wrote escaped."""
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    where = ".".join(str(part) for part in first["loc"]).encode("unicode_escape").decode()
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    return f"{where or 'header'}: {first['msg']}{more}"
