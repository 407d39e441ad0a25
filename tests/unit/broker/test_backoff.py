"""Waiting before something is tried again: not at first, then longer, and from the start after it went well."""

from broker import Backoff
from broker.backoff import jittered_s


def test_the_second_failure_in_a_row_waits_and_a_later_one_longer_up_to_a_limit() -> None:
    backoff = Backoff(lambda: 0.0, longest_s=4.0)
    waits = [[], [], [], [], [], []]  # type: list[list[float]]
    for _ in range(200):
        backoff = Backoff(lambda: 0.0, longest_s=4.0)
        for row in waits:
            row.append(backoff.failed_s())
    assert set(waits[0]) == {0.0}
    for row, longest_s in zip(waits[1:], (0.5, 1.0, 2.0, 4.0, 4.0), strict=True):
        assert 0.6 * longest_s < max(row) <= longest_s
        assert min(row) < 0.4 * longest_s


def test_what_lasted_begins_a_new_row() -> None:
    now = 0.0
    backoff = Backoff(lambda: now, lasts_s=60.0)
    for _ in range(3):
        backoff.failed_s()
    backoff.begin()
    now = 60.0
    assert backoff.failed_s() == 0.0


def test_no_number_of_failures_is_too_large() -> None:
    assert 0.0 <= jittered_s(10**6, longest_s=30.0) <= 30.0
