"""One message as bytes, and back. The wire format, version 2:

    offset    size  what
    0         4     b"FMQ" and the version, one byte: 2
    4         4     length h of the header, unsigned, little-endian; at most 4 MiB
    8         4     length t of the trailer, unsigned, little-endian; 0 if the message is not signed
    12        h     the header: one msgpack map; its keys are the fields in messages.py
    12+h      t     the trailer: who signed the header, see signatures.py
    12+h+t    p     zero bytes up to the next multiple of 64
    12+h+t+p  n     the payload: the tensors' bytes, as specs.py says; empty when the header names a blob

Version 1, which fedmq 0.1 wrote, has neither the trailer nor its length; it is read as a message without a signature.
Version 3 is version 2 with a deflated header, see deflated.py: of a model's head that not all workers need.

A signature covers the header, whose ``sha256`` covers the payload. It is verified over the bytes as they came, before
anything of them is parsed.

A blob holds the payload alone, cut into parts. With zstd (see zstd.py) the payload, or each part, is one frame, and n
is its size; ``tensors`` and ``sha256`` describe its content. A message has no pickle, no code and no extension types,
and decoding trusts nothing: every size is checked against what was announced before anything is allocated for it.
"""

from dataclasses import dataclass
from functools import lru_cache
from itertools import chain
from typing import Generic, TypeVar

import msgpack
from pydantic import TypeAdapter, ValidationError

from broker.wire.buffers import Buffer
from broker.wire.deflated import deflated, inflated
from broker.wire.headers import ENTRY_BYTES, MAX_COUNTED, MAX_TENSORS, Header
from broker.wire.messages import Tensors
from broker.wire.signatures import MAX_TRAILER_BYTES, Believing, Signer, Trust
from broker.wire.specs import KeptSpecs, TensorSpec, kept
from console import ForgedMessage, MalformedMessage

VERSION, DEFLATED = 2, 3
MAX_HEADER_BYTES = 4 * 2**20
_MAGIC = b"FMQ"
_PREFIX_BYTES = {1: 8, VERSION: 12, DEFLATED: 12}
"""Version -> bytes before the header."""
_ALIGNMENT = 64

_SPEC = TypeAdapter(TensorSpec)
_REMEMBERED_BYTES = 2**19
"""Specs up to this size, those of some ten thousand tensors, are remembered: all messages of a run have the same."""

_BELIEVING = Believing()

H = TypeVar("H", bound=Header)


@dataclass(frozen=True, slots=True)
class Message(Generic[H]):
    """A message as it was received."""

    header: H
    payload: memoryview
    signer: Signer | None
    """Who signed it; None where senders are believed."""

    def check_signer(self, name: str) -> None:
        """A ForgedMessage if it is signed, but not by the one of this name."""
        if self.signer is not None and self.signer.name != name:
            raise ForgedMessage(f"claims to be from {name}, but is signed by {self.signer}")


def encode(header: Header, *payload: Buffer, trust: Trust = _BELIEVING, deflates: bool = False) -> bytes:
    """The message as one ``bytes``, signed as ``trust`` does. A header over 4 MiB is a MalformedMessage.

    The payload may be in pieces, which are copied once.
    ``deflates`` its header, which only a head that ``may_be_deflated`` is read with.
    """
    packed = _packed(header)
    if len(packed) > MAX_HEADER_BYTES:
        raise MalformedMessage(f"header of {len(packed)} bytes; at most {MAX_HEADER_BYTES} can travel")
    if deflates:
        packed = deflated(packed)
    trailer = trust.sign(kind_of(type(header)), packed)
    version = DEFLATED if deflates else VERSION
    prefix = _MAGIC + bytes([version]) + len(packed).to_bytes(4, "little") + len(trailer).to_bytes(4, "little")
    end = len(prefix) + len(packed) + len(trailer)
    return b"".join((prefix, packed, trailer, bytes(_aligned(end) - end), *payload))


def kind_of(header: type[Header]) -> str:
    """What a header's ``kind`` says; a signature covers it, too."""
    return str(header.model_fields["kind"].default)


def _packed(header: Header) -> bytes:
    """The header's fields as a map. The specs of tensors, which come first, are packed already."""
    if not isinstance(header, Tensors):
        return msgpack.packb(header.model_dump(mode="python"))  # type: ignore[no-any-return]
    packer = msgpack.Packer()
    others = header.model_dump(mode="python", exclude={"tensors"})
    first = [packer.pack_map_header(1 + len(others)), packer.pack("tensors"), kept(header.tensors).packed]
    return b"".join(chain(first, map(packer.pack, chain.from_iterable(others.items()))))


def decode(body: Buffer, kind: type[H]) -> tuple[H, memoryview]:
    """The validated header, and the payload as a view of ``body``. Signatures are not checked.

    Whatever is wrong with the message, a MalformedMessage names it.
    """
    message = decode_from(body, kind, trust=_BELIEVING)
    return message.header, message.payload


def decode_from(body: Buffer, kind: type[H], *, trust: Trust, max_tensors: int = MAX_TENSORS) -> Message[H]:
    """The same with who signed it; a ForgedMessage, before anything is parsed, if ``trust`` does not accept that.

    Specs of more than ``max_tensors`` tensors are refused without a look at them: 100,000 take a second.
    """
    framed = _framed(memoryview(body))
    signer = trust.signer_of(kind_of(kind), framed.header, framed.trailer)
    packed = _inflated(framed.header, kind) if framed.version == DEFLATED else framed.header
    return Message(_validated(_unpacked(packed, max_tensors), kind), framed.payload, signer)


def _inflated(header: memoryview, kind: type[Header]) -> memoryview:
    if not kind.may_be_deflated:
        raise MalformedMessage(f"message format {DEFLATED} is for models alone")
    return memoryview(inflated(header, most=MAX_HEADER_BYTES))


def is_of_kind(body: Buffer, kind: type[Header]) -> bool:
    """Whether a message says that it is of this kind, as the first of its fields: a look at bytes, nothing is parsed.

    Of two kinds that come on one queue, it tells which one to decode. It promises nothing about the rest.
    """
    start = bytes(memoryview(body)[:64])
    num_prefix = _PREFIX_BYTES.get(start[3], 0) if start.startswith(_MAGIC) and len(start) > 3 else 0
    fields = start[num_prefix:]
    is_map = bool(num_prefix) and bool(fields) and 0x81 <= fields[0] <= 0x8F  # one to fifteen fields
    return is_map and fields[1:].startswith(msgpack.packb("kind") + msgpack.packb(kind_of(kind)))


@dataclass(frozen=True, slots=True)
class _Framed:
    """The three pieces of a message, not looked into."""

    version: int
    header: memoryview
    trailer: memoryview
    payload: memoryview


def _framed(view: memoryview) -> _Framed:
    start = bytes(view[: _PREFIX_BYTES[VERSION]])
    if not start.startswith(_MAGIC):
        raise MalformedMessage(f"not a fedmq message: it begins with {start[:8].hex(' ') or 'nothing'}")
    num_prefix = _PREFIX_BYTES.get(start[3], 0) if len(start) > 3 else _PREFIX_BYTES[VERSION]
    if not num_prefix:
        raise MalformedMessage(f"message format {start[3]}; this fedmq reads formats 1 to {DEFLATED}")
    if len(start) < num_prefix:
        raise MalformedMessage(f"message is cut off after {len(start)} bytes")
    header = int.from_bytes(start[4:8], "little")
    if header > MAX_HEADER_BYTES:
        raise MalformedMessage(f"header of {header} bytes announced; at most {MAX_HEADER_BYTES} are read")
    trailer = int.from_bytes(start[8:num_prefix], "little")
    if trailer > MAX_TRAILER_BYTES:
        raise MalformedMessage(f"trailer of {trailer} bytes announced; at most {MAX_TRAILER_BYTES} are read")
    after_header = num_prefix + header
    end = after_header + trailer
    offset = _aligned(end)
    if len(view) < offset:
        raise MalformedMessage(f"message is cut off: {len(view)} bytes, its header alone needs {offset}")
    if any(view[end:offset]):
        raise MalformedMessage("padding after the header is not zero")
    return _Framed(start[3], view[num_prefix:after_header], view[after_header:end], view[offset:])


def _aligned(end: int) -> int:
    return end + -end % _ALIGNMENT


def _unpacker(packed: Buffer) -> msgpack.Unpacker:
    unpacker = msgpack.Unpacker(
        raw=False,
        strict_map_key=True,
        read_size=len(packed) or 1,  # what is allocated at first; by default a megabyte
        max_buffer_size=MAX_HEADER_BYTES,
        max_str_len=4096,
        max_bin_len=ENTRY_BYTES * MAX_COUNTED,
        max_ext_len=0,
        max_array_len=1024,
        max_map_len=1024,
    )
    unpacker.feed(packed)
    return unpacker


def _unpacked(packed: memoryview, max_tensors: int) -> dict[str, object]:
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
                fields[name] = _tensors(packed[begin : unpacker.tell()], max_tensors)
            else:
                fields[name] = unpacker.unpack()
        if unpacker.tell() != len(packed):
            raise MalformedMessage("header has bytes after its map")
    except (ValueError, msgpack.UnpackException) as error:
        raise MalformedMessage(f"header is not valid msgpack: {str(error) or type(error).__name__}") from error
    return fields


def _tensors(packed: memoryview, max_tensors: int) -> KeptSpecs:
    number = _unpacker(packed).read_array_header()
    if number > max_tensors:
        raise MalformedMessage(f"header announces {number} tensors; at most {max_tensors} are read here")
    return _remembered(bytes(packed)) if len(packed) <= _REMEMBERED_BYTES else _specs(packed)


def _specs(packed: Buffer) -> KeptSpecs:
    """The specs; stops at the first wrong one, since 100,000 errors would take more room than the message."""
    unpacker = _unpacker(packed)
    specs = []
    for index in range(unpacker.read_array_header()):
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
