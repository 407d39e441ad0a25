"""The columns of the matrix: each is a number of ways to do the same work, all of which end with the same bits."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from matrix.faults import AFTER, AGGREGATOR, BEFORE, FROZEN, KILLED, OF_SUMS, PARTIAL, TARGETS, WORKER, Fault
from matrix.federation import Way

Calls = Mapping[tuple[str, str], int]
"""(role, target) -> number of calls in an undisturbed run."""


@dataclass(frozen=True, slots=True)
class Point:
    """A call of this function at which a member of this role is killed or frozen."""

    role: str
    what: str
    when: str
    target: str


def _points(role: str, what: str, targets: Iterable[str]) -> list[Point]:
    return [Point(role, what, when, target) for target in targets for when in (BEFORE, AFTER)]


@dataclass(frozen=True, slots=True)
class Disturbance:
    """``undisturbed`` has the digest that all of ``ways``, and ``base`` with a fault at each point, are to have."""

    name: str
    undisturbed: Way
    ways: tuple[Way, ...] = ()
    base: Way | None = None
    points: tuple[Point, ...] = ()

    def faulty(self, calls: Calls, points: Sequence[Point], *, most: int | None) -> Iterator[Way]:
        """Those with a fault at one of ``most`` calls of each point, spread over the run; None: at each call."""
        assert self.base is not None
        for point in points:
            for call in spread(calls.get((point.role, point.target), 0), most):
                fault = Fault(point.role, point.what, point.when, point.target, call)
                yield replace(self.base, fault=fault)


def spread(num_calls: int, most: int | None) -> list[int]:
    """Up to ``most`` of the numbers from 1 on, the last among them, evenly; of one, that in the middle."""
    if most is None or num_calls <= most:
        return list(range(1, num_calls + 1))
    if most == 1:
        return [(num_calls + 1) // 2]
    return [1 + index * (num_calls - 1) // (most - 1) for index in range(most)]


_PLAIN, _BLOBS = Way(), Way(in_blobs=True)
_SHARDED = Way(num_shards=2, in_blobs=True)


def _orders(way: Way) -> tuple[Way, ...]:
    return (
        replace(way, order=1),
        replace(way, order=2, is_lazy=True, in_blobs=True),
        replace(way, order=3, is_lazy=True, copies=2),
    )


def _compressed(text: str) -> Disturbance:
    way = Way(compression=text)
    return Disturbance(text, way, _orders(way))


def _faulty(name: str, base: Way, *points: Point) -> Disturbance:
    return Disturbance(name, _PLAIN, base=base, points=points)


DISTURBANCES = (
    Disturbance("other order", _PLAIN, (_BLOBS, *_orders(_PLAIN))),
    Disturbance("sent twice", _PLAIN, (replace(_PLAIN, copies=2), replace(_BLOBS, copies=2, order=4))),
    Disturbance("2 partials", _PLAIN, (Way(num_shards=2), _SHARDED, *_orders(_SHARDED))),
    _compressed("float16"),
    _compressed("int8"),
    _compressed("topk:0.3"),
    _faulty("killed", _BLOBS, *_points(AGGREGATOR, KILLED, TARGETS[AGGREGATOR])),
    _faulty("taken over", _BLOBS, *_points(AGGREGATOR, FROZEN, TARGETS[AGGREGATOR])),
    _faulty("worker killed", _BLOBS, *_points(WORKER, KILLED, TARGETS[WORKER])),
    _faulty(
        "partial killed",
        _SHARDED,
        *_points(PARTIAL, KILLED, TARGETS[PARTIAL]),
        *_points(AGGREGATOR, KILLED, OF_SUMS),
    ),
)
