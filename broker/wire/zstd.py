"""Lossless compression of message bodies: one zstd frame per body or part, so that a blob can still be read in parts.

A frame must state its size, which must be the one announced in the header: nothing is allocated on its word alone.
"""

import zstandard

from broker.wire.buffers import Buffer
from console import UnfitMessage


def compressed(part: Buffer, level: int) -> bytes:
    """The part as one frame; unchanged at level 0."""
    if level == 0:
        return bytes(part)
    return zstandard.ZstdCompressor(level=level, write_content_size=True).compress(part)


def decompressed(frame: Buffer, num_bytes: int) -> bytes:
    """The content of a frame. UnfitMessage if the frame is incomplete, or its content not of ``num_bytes``."""
    try:
        told = zstandard.get_frame_parameters(frame)
        if told.content_size != num_bytes or told.dict_id:
            raise UnfitMessage(f"its body has a zstd frame that is not of the {num_bytes} bytes announced")
        content = zstandard.ZstdDecompressor().decompress(frame, max_output_size=num_bytes, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise UnfitMessage(f"its body is not valid zstd: {error}") from error
    if len(content) != num_bytes:
        raise UnfitMessage(f"its body has a zstd frame of {len(content)} bytes where {num_bytes} were announced")
    return content
