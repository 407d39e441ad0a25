"""Acks of updates: the fewest commands for those of one session, and those that nobody needs, in groups.

A quorum queue writes each command into its log, so one that acks many costs hardly more than one that acks a single
message. A command acks all up to its tag, and so only what is older than everything that still waits for a commit.
"""

from collections import deque
from collections.abc import Callable, Collection

from pika.adapters.blocking_connection import BlockingChannel

from broker.rabbitmq.links import Link

Mark = tuple[int, int]
"""(session, tag)."""

_AT_LATEST_S = 0.02


class Acks:
    """The updates of one channel at a time; for its connection's thread alone."""

    def __init__(self) -> None:
        self._unacked: dict[int, None] = {}
        """Tags, oldest first."""

    def begin(self) -> None:
        """Forgets all tags: what was not acked is delivered again, with new ones."""
        self._unacked.clear()

    def received(self, tag: int) -> None:
        """Notes a delivery."""
        self._unacked[tag] = None

    @property
    def newest(self) -> int | None:
        """The newest tag not acked; None if there is none."""
        return next(reversed(self._unacked), None)

    def ack(self, channel: BlockingChannel, tags: Collection[int]) -> None:
        """Acks those of these that are not acked yet."""
        done = self._unacked.keys() & tags
        last = None
        while done and (oldest := next(iter(self._unacked))) in done:
            done.remove(oldest)
            del self._unacked[oldest]
            last = oldest
        if last is not None:
            channel.basic_ack(last, multiple=True)
        for tag in sorted(done):
            del self._unacked[tag]
            channel.basic_ack(tag)


class Dropped:
    """Updates that nobody needs, on their way to being acked together: so many at once, or shortly after the first.

    ``ack`` is done in the connection's thread.
    """

    def __init__(self, ack: Callable[[Link, Collection[Mark]], None]) -> None:
        self._ack = ack
        self._at_once = 1
        self._marks: deque[Mark] = deque()
        self._is_posted = self._is_timed = False

    def begin(self, *, at_once: int) -> None:
        """Forgets those of the session before; from now on so many are acked at once."""
        self._at_once = at_once
        self._marks.clear()
        self._is_posted = self._is_timed = False

    def add(self, link: Link, mark: Mark) -> None:
        """Takes one. May be called from any thread."""
        self._marks.append(mark)  # before the flags are read: ``now`` clears them before it takes what is there
        if len(self._marks) >= self._at_once:
            if not self._is_posted:
                self._is_posted = True
                link.post(self.now)
        elif not self._is_timed:
            self._is_timed = True
            link.post(lambda link: link.later(_AT_LATEST_S, self.now))

    def now(self, link: Link) -> None:
        """Acks all, in the connection's thread."""
        self._is_posted = self._is_timed = False
        marks = [self._marks.popleft() for _ in range(len(self._marks))]
        if marks:
            self._ack(link, marks)
