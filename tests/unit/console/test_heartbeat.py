"""Signs of life from a thread of their own."""

import itertools
import threading
from collections.abc import Callable

import pytest

from console import heartbeat
from console.heartbeat import Heartbeat

SOON_S = 30.0


def test_it_beats_by_itself() -> None:
    beats = threading.Semaphore(0)
    with Heartbeat(beats.release, every_s=lambda: 0.01):
        assert all(beats.acquire(timeout=SOON_S) for _ in range(3))


def test_it_beats_at_once_when_asked() -> None:
    beats = threading.Semaphore(0)
    with Heartbeat(beats.release, every_s=lambda: 3600) as beating:
        beating.soon()
        assert beats.acquire(timeout=SOON_S)


def test_many_changes_make_one_beat() -> None:
    beats, has_begun, may_end = [], threading.Event(), threading.Event()

    def beat() -> None:
        beats.append(len(beats))
        has_begun.set()
        may_end.wait(SOON_S)

    with Heartbeat(beat, every_s=lambda: 3600) as beating:
        beating.soon()
        assert has_begun.wait(SOON_S)
        for _ in range(100):
            beating.soon()
        may_end.set()
    assert len(beats) <= 2


def waits_of(num: int, *, asked: bool = False, **given: Callable[[], float]) -> list[float]:
    """The first waits of a heartbeat whose time passes at once, in seconds."""
    waits: list[float] = []

    class Passing(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            waits.append(timeout or 0.0)
            return super().wait(0)

    has_beaten = threading.Event()
    beating = Heartbeat(lambda: has_beaten.set() if len(waits) > num else None, **given)
    beating._is_due, beating._stopping = Passing(), Passing()
    if asked:
        beating.soon()
    with beating:
        assert has_beaten.wait(SOON_S)
    return waits[:num]


def test_its_rest_is_a_part_of_the_time_between_two_beats() -> None:
    assert waits_of(5, every_s=lambda: 60.0, chance=lambda: 0.0) == [60.0, 1.0, 59.0, 1.0, 59.0]


def test_it_comes_up_to_a_fifth_early_so_that_many_drift_apart() -> None:
    assert waits_of(3, every_s=lambda: 60.0, chance=lambda: 1.0) == [48.0, 1.0, 47.0]


def test_it_goes_by_the_interval_as_it_is_at_that_moment() -> None:
    intervals = itertools.chain([10.0], itertools.repeat(60.0))
    assert waits_of(5, every_s=lambda: next(intervals), chance=lambda: 0.0) == [10.0, 1.0, 59.0, 1.0, 59.0]


def test_a_beat_that_is_asked_for_is_put_off_by_a_part_of_the_spread() -> None:
    waits = waits_of(3, asked=True, every_s=lambda: 60.0, spread_s=lambda: 6.0, chance=lambda: 0.5)
    assert waits == [54.0, 3.0, 1.0]


def test_it_leaves_at_once_in_its_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heartbeat, "_SHORTEST_S", 3600.0)
    beats = threading.Semaphore(0)
    with Heartbeat(beats.release, every_s=lambda: 3600) as beating:
        beating.soon()
        assert beats.acquire(timeout=SOON_S)
