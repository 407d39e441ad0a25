"""Where a member is killed or frozen: before or after a call of a function of the product, named as in crash/points.py.

Nothing is closed at a kill: what the disk has at that moment is what the next start finds. The state directory is
copied before the exception that ends the call is raised, and what the unwinding changes is thrown away.
"""

import functools
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from crash import points
from crash.armed import owner_of

BEFORE, AFTER = "before", "after"
KILLED, FROZEN = "killed", "frozen"


class Killed(BaseException):
    """kill -9, as far as one process can have it."""


@dataclass(frozen=True, slots=True)
class Fault:
    """What happens to a member of this role, at its ``call``-th call of ``target``, counted from 1 over the run."""

    role: str
    what: str
    when: str
    target: str
    call: int

    def __str__(self) -> str:
        return f"the {self.role} is {self.what} {self.when} call {self.call} of {self.target.partition(':')[2]}"


def _embedded(target: str) -> str | None:
    """The same boundary over the embedded broker; None if it has none."""
    target = target.replace("broker.rabbitmq.transport:RabbitMQ.", "broker.memory:MemoryTransport.")
    target = target.replace("broker.rabbitmq.blobs:_publish_part", "broker.memory:_BlobUpload.write")
    return None if target.startswith(("broker.rabbitmq", "pika")) else target


def _targets(found: Sequence[points.Point], members: Sequence[str]) -> tuple[str, ...]:
    targets = [_embedded(point.target) for point in found if point.member in members]
    return tuple(dict.fromkeys(target for target in targets if target is not None))


AGGREGATOR, WORKER, PARTIAL = "aggregator", "worker", "partial"
TARGETS = {
    AGGREGATOR: _targets([*points.CRASH_POINTS, *points.STEPPING, *points.SPOOL], ["aggregator"]),
    WORKER: _targets([*points.WORKER, *points.REMEMBERING], ["anna"]),
    PARTIAL: _targets(points.PARTIAL, ["partial-0"]),
}
"""Role -> all functions at whose calls the crash matrix kills it, as far as the embedded broker has them."""
OF_SUMS = _targets(points.PARTIAL, ["aggregator"])
"""Those of the aggregator that partial sums come by."""


class Faults:
    """Whose code runs now, how often each target was called by each role, and what happens at one of those calls."""

    def __init__(self, fault: Fault | None = None) -> None:
        self.fault, self.role = fault, ""
        self.calls: Counter[tuple[str, str]] = Counter()
        self.happens: Callable[[], None] = lambda: None
        """Called once, where the fault is."""
        self.has_happened = False

    @contextmanager
    def acting(self, role: str) -> Iterator[None]:
        before, self.role = self.role, role
        try:
            yield
        finally:
            self.role = before

    @contextmanager
    def armed(self, targets: Sequence[str]) -> Iterator[None]:
        """Watches these functions as long as the context lasts."""
        originals = []
        try:
            for target in targets:
                owner, name = owner_of(target)
                originals.append((owner, name, getattr(owner, name)))
                setattr(owner, name, self._watched(target, getattr(owner, name)))
            yield
        finally:
            for owner, name, function in originals:
                setattr(owner, name, function)

    def _watched(self, target: str, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def watched(*args: Any, **kwargs: Any) -> Any:
            when = self._counted(target)
            if when == BEFORE:
                self._happen()
            result = function(*args, **kwargs)
            if when == AFTER:
                self._happen()
            return result

        return watched

    def _counted(self, target: str) -> str | None:
        """Counts a call; when the fault is due in it, or None."""
        self.calls[self.role, target] += 1
        fault = self.fault
        if fault is None or self.has_happened or (fault.role, fault.target) != (self.role, target):
            return None
        return fault.when if self.calls[self.role, target] == fault.call else None

    def _happen(self) -> None:
        self.has_happened = True
        self.happens()
