"""Bytes on their way: the type of whatever holds bytes, and how pieces of any size become parts."""

from collections.abc import Iterable, Iterator

Buffer = bytes | bytearray | memoryview


class Cutter:
    """Takes bytes in pieces and gives them in parts of ``part_bytes``, copied once; it holds pieces for one part."""

    def __init__(self, part_bytes: int) -> None:
        self._part_bytes = self._room = part_bytes
        self._views: list[memoryview] = []

    def add(self, piece: Buffer) -> Iterator[bytes]:
        """The parts that this piece completes."""
        view = memoryview(piece)
        while view:
            self._views.append(view[: self._room])
            view = view[self._room :]
            self._room -= len(self._views[-1])
            if self._room == 0:
                yield from self.rest()

    def rest(self) -> Iterator[bytes]:
        """The last part, if anything is left."""
        if self._views:
            yield b"".join(self._views)
            self._views.clear()
            self._room = self._part_bytes


def cut(pieces: Iterable[Buffer], part_bytes: int) -> Iterator[bytes]:
    """The same bytes in parts of ``part_bytes``, the last one shorter."""
    cutter = Cutter(part_bytes)
    for piece in pieces:
        yield from cutter.add(piece)
    yield from cutter.rest()
