"""What RabbitMQ says when it ends a channel or a connection, and what that means to us.

It has few codes and many texts, which differ between 3.10 and 4.x. Of a node that is coming or going it says things
that sound final, such as NOT_FOUND of a queue whose node is down; whoever believed them would end for good.
"""

import re
from dataclasses import dataclass
from enum import StrEnum

from console import BrokerError, BrokerFault, BrokerRefused, BrokerUnreachable, QueueMissing


class Kind(StrEnum):
    """What is to be done about it."""

    MISSING = "missing"
    """There is no such queue, stream or exchange: whoever makes it has to."""
    PASSING = "passing"
    """A new connection is all it takes, at another node perhaps."""
    FAULT = "fault"
    """The queue is there, and the broker fails at it: for as long as a node is away, or for ever."""
    REFUSED = "refused"
    """It will say so each time."""


@dataclass(frozen=True, slots=True)
class _Row:
    pattern: re.Pattern[str]
    kind: Kind
    codes: tuple[int, ...] = ()
    """Of none: whichever it is."""

    def fits(self, code: int, text: str) -> bool:
        words = _NAMES.sub("''", text)  # a queue may be named like a fault
        return (not self.codes or code in self.codes) and self.pattern.search(words) is not None


_NAMES = re.compile(r"'[^']*'")


def _row(pattern: str, kind: Kind, *codes: int) -> _Row:
    return _Row(re.compile(pattern), kind, codes)


_NOT_ALLOWED = 530
_OF_CHANNELS = (
    # a classic queue whose node is down, or a queue that was half made when its node was killed
    _row("is down or inaccessible", Kind.FAULT),
    # the same as 4.x says it, after up to 77 seconds
    _row("failed to perform operation on .* due to timeout", Kind.FAULT),
    # its node has just been stopped in order
    _row("process is stopped by supervisor", Kind.FAULT),
    _row("crashed and failed to restart", Kind.FAULT),
    _row("may be stopping or being demoted", Kind.FAULT),
    # an update was held for longer than the consumer timeout
    _row("delivery acknowledgement", Kind.PASSING),
    # too few nodes for a quorum, or 4.x cannot write its metadata
    _row(r"\btimed[ -]out\b|\btimeout\b", Kind.FAULT, 404, 406, 541),
    # a stream that this node has no copy of, or does not run yet; 4.x says ``running``
    _row("does not have a (running )?replica", Kind.PASSING),
    _row("", Kind.MISSING, 404),
    _row("", Kind.FAULT, 506, 541),
    _row("", Kind.REFUSED),
)
_OF_CONNECTIONS = (
    # a node that has just started, or one that has as many connections as it may
    _row(r"vhost .* is down|connection limit", Kind.PASSING, _NOT_ALLOWED),
    _row("", Kind.REFUSED, 403, _NOT_ALLOWED),
    _row("", Kind.FAULT, 541),
    # 320: a node that is stopped or put into maintenance; and whatever else a new connection may not meet
    _row("", Kind.PASSING),
)


def of_channel(code: int, text: str) -> Kind:
    """What the end of a channel means."""
    return next(row.kind for row in _OF_CHANNELS if row.fits(code, text))


def of_connection(code: int, text: str) -> Kind:
    """What the end of a connection means, be it at its login or later."""
    return next(row.kind for row in _OF_CONNECTIONS if row.fits(code, text))


def channel_error(code: int, text: str) -> BrokerError:
    """The error of ours for the end of a channel."""
    kind = of_channel(code, text)
    return _ERRORS[kind](_said(kind, text))


def connection_error(code: int, text: str) -> BrokerError:
    """The error of ours for the end of an open connection: a refusal comes at the next login, if it is one."""
    if of_connection(code, text) is Kind.FAULT:
        return BrokerFault(f"the broker failed and closed the connection: {text}")
    return BrokerUnreachable(f"connection closed by the broker: {text}")


def _said(kind: Kind, text: str) -> str:
    if kind is Kind.FAULT:
        return f"{text} (it is there, and so is the broker; a node that it needs is down, or just coming or going)"
    return f"the broker refuses: {text}" if kind is Kind.REFUSED else text


_ERRORS: dict[Kind, type[BrokerError]] = {
    Kind.MISSING: QueueMissing,
    Kind.PASSING: BrokerUnreachable,
    Kind.FAULT: BrokerFault,
    Kind.REFUSED: BrokerRefused,
}
