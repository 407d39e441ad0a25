"""Writing all: a file may take less than it is given, and gets small pieces."""

import io

import pytest

from console.durable import write_all


class _Slow(io.RawIOBase):
    def __init__(self, takes: int) -> None:
        self._takes = takes
        self.written, self.sizes = b"", list[int]()

    def writable(self) -> bool:
        return True

    def write(self, data: memoryview) -> int:  # type: ignore[override]
        self.sizes.append(len(data))
        taken = bytes(data[: self._takes])
        self.written += taken
        return len(taken)


@pytest.mark.parametrize("takes", [1000, 2**16, 2**30])
@pytest.mark.parametrize("num_bytes", [0, 1, 2**16, 200_001])
def test_all_is_written_whatever_the_file_takes_at_a_time(takes: int, num_bytes: int) -> None:
    file, data = _Slow(takes), bytes(index % 251 for index in range(num_bytes))
    write_all(file, data)  # type: ignore[arg-type]
    assert file.written == data
    assert max(file.sizes, default=0) <= 2**16


def test_numbers_are_written_as_their_bytes() -> None:
    file = io.BytesIO()
    write_all(file, memoryview(b"abcdefgh").cast("I"))
    assert file.getvalue() == b"abcdefgh"
