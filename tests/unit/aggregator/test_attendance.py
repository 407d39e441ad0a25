"""Who is there: each worker for 3.5 times as long as it says that it may be silent."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aggregator.presence.attendance import Attendance
from aggregator.presence.present import Present
from broker.wire.messages import Presence

WORKERS = st.sampled_from("abcd")
STEPS = st.lists(
    st.tuples(st.sampled_from([0, 1, 2, 9]), WORKERS, st.sampled_from([1, 3, 10, 60]) | st.none()), max_size=60
)
"""(seconds that pass, who speaks then, for how long it may be silent; None: it leaves)."""


def presence(worker: str, every_s: float | None = None, **changes: Any) -> Presence:
    fields = {"worker": worker, "instance": "00112233", "state": "idle", "every_s": every_s} | changes
    return Presence.model_validate(fields)


def present_at(attendance: Attendance, *moments: float) -> list[int]:
    return [attendance.num_present(now=now) for now in moments]


def test_a_worker_that_says_nothing_of_its_interval_is_gone_after_35_seconds() -> None:
    attendance = Attendance()
    attendance.heard(presence("a"), now=0.0)
    assert attendance.next_change() == 35.0
    assert present_at(attendance, 35.0, 35.01) == [1, 0]


@pytest.mark.parametrize("every_s", [10.0, 20.0, 60.0])
def test_a_worker_is_gone_after_three_and_a_half_of_its_own_intervals(every_s: float) -> None:
    attendance = Attendance()
    attendance.heard(presence("a", every_s), now=0.0)
    assert attendance.next_change() == 3.5 * every_s
    assert present_at(attendance, 3.5 * every_s, 3.5 * every_s + 0.01) == [1, 0]


def test_a_worker_that_speaks_more_often_is_not_gone_sooner() -> None:
    attendance = Attendance()
    attendance.heard(presence("a", 0.2), now=0.0)
    assert present_at(attendance, 35.0, 35.01) == [1, 0]


def test_workers_that_speak_once_a_minute_are_there_all_the_time() -> None:
    attendance = Attendance()
    for name in "abc":
        attendance.heard(presence(name, 60.0), now=0.0)
    assert present_at(attendance, 34, 36, 59) == [3, 3, 3]


def test_who_goes_next_need_not_be_the_longest_silent_one() -> None:
    attendance = Attendance()
    attendance.heard(presence("slow", 60.0), now=0.0)
    attendance.heard(presence("quick", 10.0), now=10.0)
    assert attendance.next_change() == 45.0
    assert present_at(attendance, 45.5) == [1]
    assert attendance.names() == ["slow"]
    assert attendance.next_change() == 210.0


def test_a_worker_may_change_its_interval() -> None:
    attendance = Attendance()
    attendance.heard(presence("a", 60.0), now=0.0)
    attendance.heard(presence("a", 20.0), now=1.0)
    assert attendance.next_change() == 71.0
    attendance.heard(presence("a", 60.0), now=2.0)
    assert present_at(attendance, 212.0, 212.1) == [1, 0]


def test_who_is_expected_after_a_restart_has_as_long_as_was_known_before() -> None:
    attendance = Attendance()
    attendance.expect(3, now=0.0)
    assert present_at(attendance, 34.9, 35.0) == [3, 0]
    attendance.expect(3, now=100.0, patience_s=210.0)
    assert attendance.next_change() == 310.0
    assert present_at(attendance, 309.9, 310.0) == [3, 0]


def test_the_longest_interval_grows_in_few_steps_whatever_is_said() -> None:
    attendance, found = Attendance(), set()
    for number in range(1000):
        attendance.heard(presence("a", 10 + number / 20), now=float(number))
        found.add(attendance.patience_s)
    assert len(found) <= 6
    assert attendance.patience_s == 210.0


@given(STEPS)
def test_who_is_there_and_who_goes_next_is_what_a_plain_list_says(steps: list[tuple[float, str, float | None]]) -> None:
    present: Present[int] = Present()
    plain: dict[str, float] = {}
    now = 0.0
    for number, (seconds, worker, silence_s) in enumerate(steps):
        now += seconds
        plain = {name: until for name, until in plain.items() if until >= now}
        present.forget_silent(now=now)
        plain.pop(worker, None)
        if silence_s is None:
            present.leave(worker)
        else:
            plain[worker] = now + silence_s
            present.heard(worker, number, until=now + silence_s)
        assert list(present) == list(plain)  # the longest silent one first
        assert present.next_at() == min(plain.values(), default=None)


def test_thousands_of_workers_take_one_entry_each_however_often_they_speak() -> None:
    present: Present[None] = Present()
    for second in range(30):
        for number in range(1000):
            present.heard(str(number), None, until=second + 35.0)
    assert len(present._entries) == 1000
    assert present.next_at() == 64.0
