"""Signs of life from a thread of their own."""

import threading

import pytest

from console import heartbeat
from console.heartbeat import Heartbeat

SOON_S = 30.0


def test_it_beats_by_itself() -> None:
    beats = threading.Semaphore(0)
    with Heartbeat(beats.release, every_s=0.01):
        assert all(beats.acquire(timeout=SOON_S) for _ in range(3))


def test_it_beats_at_once_when_asked() -> None:
    beats = threading.Semaphore(0)
    with Heartbeat(beats.release, every_s=3600) as beating:
        beating.soon()
        assert beats.acquire(timeout=SOON_S)


def test_many_changes_make_one_beat() -> None:
    beats, has_begun, may_end = [], threading.Event(), threading.Event()

    def beat() -> None:
        beats.append(len(beats))
        has_begun.set()
        may_end.wait(SOON_S)

    with Heartbeat(beat, every_s=3600) as beating:
        beating.soon()
        assert has_begun.wait(SOON_S)
        for _ in range(100):
            beating.soon()
        may_end.set()
    assert len(beats) <= 2


def test_its_rest_is_a_part_of_the_time_between_two_beats() -> None:
    waits: list[float] = []

    class Passing(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            waits.append(timeout or 0.0)
            return super().wait(0)

    has_beaten = threading.Event()
    beating = Heartbeat(lambda: has_beaten.set() if len(waits) > 8 else None, every_s=60.0)
    beating._is_due, beating._stopping = Passing(), Passing()
    with beating:
        assert has_beaten.wait(SOON_S)
    assert waits[:5] == [60.0, 1.0, 59.0, 1.0, 59.0]


def test_it_leaves_at_once_in_its_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heartbeat, "_SHORTEST_S", 3600.0)
    beats = threading.Semaphore(0)
    with Heartbeat(beats.release, every_s=3600) as beating:
        beating.soon()
        assert beats.acquire(timeout=SOON_S)
