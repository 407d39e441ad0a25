"""Memory that is used again, but never while anybody can see it."""

import threading

import numpy as np
import pytest
import torch

from broker.states.rooms import Rooms

MB = 2**20

pytestmark = pytest.mark.timeout(30)


def address_of(memory: memoryview) -> int:
    return int(np.frombuffer(memory, np.uint8).ctypes.data)


def sizes_in(rooms: Rooms) -> list[int]:
    return sorted(len(room.memory) for room in rooms._rooms)


def test_memory_is_given_again_once_nobody_has_it() -> None:
    rooms = Rooms()
    memory = rooms.take(MB)
    address = address_of(memory)
    del memory
    assert address_of(rooms.take(MB)) == address


def test_a_view_of_a_part_keeps_all_of_it() -> None:
    rooms = Rooms()
    memory = rooms.take(MB)
    address, part = address_of(memory), memory[8:16]
    del memory
    part[:] = b"kept in "
    other = rooms.take(MB)
    assert address_of(other) != address
    other[:] = bytes(MB)
    assert bytes(part) == b"kept in "


@pytest.mark.parametrize("seen_as", ["tensor", "array", "view of a tensor"])
def test_whatever_is_made_of_it_keeps_it(seen_as: str) -> None:
    rooms = Rooms()
    memory = rooms.take(MB)
    held: object = torch.frombuffer(memory, dtype=torch.float32)
    if seen_as == "array":
        held = np.frombuffer(memory, np.float32)
    elif seen_as == "view of a tensor":
        held = torch.frombuffer(memory, dtype=torch.float32).view(512, 512)[3:5]
    address = address_of(memory)
    del memory
    other = rooms.take(MB)
    assert address_of(other) != address
    del held, other
    assert {address_of(memory) for memory in [rooms.take(MB), rooms.take(MB)]} >= {address}


def test_what_was_free_for_a_minute_is_given_back() -> None:
    now = 0.0
    rooms = Rooms(clock=lambda: now)
    held, free = rooms.take(MB), rooms.take(2 * MB)
    del free
    now = 59.0
    rooms.take(3 * MB)
    assert sizes_in(rooms) == [MB, 2 * MB, 3 * MB]
    now = 61.0
    rooms.take(3 * MB)
    assert sizes_in(rooms) == [MB, 3 * MB]
    assert len(held) == MB


def test_small_memory_is_not_kept() -> None:
    rooms = Rooms()
    assert len(rooms.take(0)) == 0
    assert len(rooms.take(MB - 1)) == MB - 1
    assert rooms._rooms == []


def test_two_threads_never_get_the_same() -> None:
    rooms = Rooms()
    clashes: list[int] = []

    def use(number: int) -> None:
        for _ in range(300):
            values = np.frombuffer(rooms.take(MB), np.int64)[::4096]
            values[:] = number
            if (values != number).any():
                clashes.append(number)

    threads = [threading.Thread(target=use, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert clashes == []
    assert len(rooms._rooms) <= 8
