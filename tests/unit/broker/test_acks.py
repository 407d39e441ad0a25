"""Acks of updates cost the broker as few commands as they can."""

from collections.abc import Callable
from typing import Any, cast

import pytest

from broker.rabbitmq.acks import Acks, Dropped

pytestmark = pytest.mark.timeout(30)


class Channel:
    """Notes the commands."""

    def __init__(self) -> None:
        self.commands: list[tuple[int, bool]] = []

    def basic_ack(self, tag: int, multiple: bool = False) -> None:
        self.commands.append((tag, multiple))


class Link:
    """Does jobs when told to: those posted, and those for later."""

    def __init__(self) -> None:
        self.posted: list[Callable[[Any], None]] = []
        self.timed: list[Callable[[Any], None]] = []

    def post(self, job: Callable[[Any], None]) -> None:
        self.posted.append(job)

    def later(self, seconds: float, job: Callable[[Any], None]) -> None:
        self.timed.append(job)

    def work(self) -> None:
        while self.posted:
            self.posted.pop(0)(self)


def acked(unacked: range, *groups: list[int]) -> list[tuple[int, bool]]:
    """(tag, whether all before it, too) of each command."""
    acks, channel = Acks(), Channel()
    for tag in unacked:
        acks.received(tag)
    for tags in groups:
        acks.ack(cast(Any, channel), tags)
    return channel.commands


def test_what_nothing_older_waits_before_is_acked_with_one_command() -> None:
    assert acked(range(1, 101), list(range(100, 0, -1))) == [(100, True)]


def test_an_update_that_waits_for_a_commit_is_not_acked_with_what_is_newer() -> None:
    assert acked(range(1, 7), [1, 2, 4, 6]) == [(2, True), (4, False), (6, False)]
    assert acked(range(1, 7), [4], [1, 2, 3, 5, 6]) == [(4, False), (6, True)]


def test_what_is_acked_twice_or_was_never_received_makes_no_command() -> None:
    assert acked(range(1, 3), [1], [1], [7]) == [(1, True)]


def test_after_a_new_session_the_tags_of_the_one_before_are_forgotten() -> None:
    acks, channel = Acks(), Channel()
    acks.received(1)
    acks.begin()
    assert acks.newest is None
    acks.ack(cast(Any, channel), [1])
    assert channel.commands == []


def test_dropped_updates_are_acked_so_many_at_once_and_the_rest_a_little_later() -> None:
    groups: list[list[tuple[int, int]]] = []
    dropped, link = Dropped(lambda _, marks: groups.append(list(marks))), Link()
    dropped.begin(at_once=3)
    for tag in range(4):
        dropped.add(cast(Any, link), (1, tag))
    link.work()
    assert groups == [[(1, 0), (1, 1), (1, 2), (1, 3)]]
    dropped.add(cast(Any, link), (1, 4))
    link.work()
    assert len(groups) == 1
    link.timed[-1](link)
    assert groups[1:] == [[(1, 4)]]


def test_dropped_updates_of_a_lost_session_are_not_acked_in_the_next() -> None:
    groups: list[list[tuple[int, int]]] = []
    dropped, link = Dropped(lambda _, marks: groups.append(list(marks))), Link()
    dropped.begin(at_once=2)
    dropped.add(cast(Any, link), (1, 1))
    dropped.begin(at_once=2)  # the job was lost with its connection
    dropped.add(cast(Any, link), (2, 1))
    dropped.add(cast(Any, link), (2, 2))
    link.work()
    assert groups == [[(2, 1), (2, 2)]]
