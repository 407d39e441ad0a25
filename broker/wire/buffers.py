"""Bytes on their way: what anything that holds bytes is called, and how pieces of them become parts."""

from collections.abc import Iterable, Iterator

Buffer = bytes | bytearray | memoryview


def cut(pieces: Iterable[Buffer], part_bytes: int) -> Iterator[bytes]:
    """The same bytes in parts of ``part_bytes``, the last one shorter, copied once; pieces are held for one part."""
    views: list[memoryview] = []
    room = part_bytes
    for piece in pieces:
        view = memoryview(piece)
        while view:
            views.append(view[:room])
            view = view[room:]
            room -= len(views[-1])
            if room == 0:
                yield b"".join(views)
                views.clear()
                room = part_bytes
    if views:
        yield b"".join(views)
