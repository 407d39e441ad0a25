"""The errors that are expected, and the exit code with which each ends a command.

FedmqError                     1  FAILED
├── SettingsError              2  USAGE        flags, environment or file make no sense
│   └── IdentityError          2  USAGE        a key, certificate or roster cannot be used
├── TaskError                  3  TASK         the task cannot be loaded or does not fit
│   └── MissingArgument        3  TASK         it asks for an argument that it was not given
├── BrokerError
│   ├── BrokerUnreachable      4  UNREACHABLE  temporary: nobody answers, a connection broke
│   ├── BrokerRefused          5  REFUSED      final: credentials, permission, certificate, arguments
│   ├── QueueMissing           4  UNREACHABLE  temporary: the queue or stream is not there (yet)
│   ├── QueueFull              4  UNREACHABLE  temporary: the queue accepts no more for now
│   ├── BrokerFault            4  UNREACHABLE  the broker itself failed at an operation, as while a node is down
│   ├── BlobLost               1  FAILED       a blob is gone, or lacks some of its parts
│   └── LeadershipLost         1  FAILED       another aggregator may lead now; this one stands by
├── StateError                 6  STATE        the state directory is another run's, full or unusable
│   └── DamagedFile            6  STATE        a file in it is not what was written; an earlier one may do
└── MessageError                               one message is unusable; it is set aside, nobody stops
    ├── MalformedMessage                       it does not decode
    ├── ForgedMessage                          nobody signed it who may send it
    └── UnfitMessage                           it decodes, but does not fit this run
        ├── DamagedBody                        its body is not the one that its header announces
        └── ReplayedMessage                    its signature is right, but it is of no use any more
"""

from enum import IntEnum
from typing import ClassVar


class ExitCode(IntEnum):
    """What a command's exit status means."""

    OK = 0
    FAILED = 1
    USAGE = 2
    TASK = 3
    UNREACHABLE = 4
    REFUSED = 5
    STATE = 6
    INTERRUPTED = 130


class FedmqError(Exception):
    """An error with a message for a person: what happened, with which value, what to do."""

    exit_code: ClassVar[ExitCode] = ExitCode.FAILED


class SettingsError(FedmqError):
    """Settings that cannot be used; the message lists every problem."""

    exit_code = ExitCode.USAGE


class IdentityError(SettingsError):
    """A key, a certificate or a roster that cannot be used: missing, open to others, not signed, somebody else's."""


class TaskError(FedmqError):
    """A task that cannot be loaded, or does not do what a task must."""

    exit_code = ExitCode.TASK


class MissingArgument(TaskError, KeyError):
    """A task asks for an argument that it was not given; ``get`` and ``in`` take it as any KeyError."""

    __str__ = Exception.__str__


class BrokerError(FedmqError):
    """Something is wrong with the broker, or with what is on it."""


class BrokerUnreachable(BrokerError):
    """Nobody answers, or the connection broke: trying again may help."""

    exit_code = ExitCode.UNREACHABLE


class BrokerRefused(BrokerError):
    """The broker refused, and trying again will not help."""

    exit_code = ExitCode.REFUSED


class QueueMissing(BrokerError):
    """A queue or stream is not there; the aggregator has not made it yet, or somebody deleted it."""

    exit_code = ExitCode.UNREACHABLE


class QueueFull(BrokerError):
    """The results queue is full; it accepts messages again when the aggregator has caught up."""

    exit_code = ExitCode.UNREACHABLE


class BrokerFault(BrokerError):
    """The broker failed at the operation itself (AMQP 541, or a queue that is not up), and may do so each time."""

    exit_code = ExitCode.UNREACHABLE


class BlobLost(BrokerError):
    """A blob is gone, or its parts are not those that were announced."""


class LeadershipLost(BrokerError):
    """Another aggregator may have taken over; what this one believes of the run may be out of date."""


class StateError(FedmqError):
    """A state directory that belongs to another run, cannot be written, or is unusable."""

    exit_code = ExitCode.STATE


class DamagedFile(StateError):
    """A file that is missing, cut or changed: its digest is not the one that was recorded."""


class MessageError(FedmqError):
    """One message that cannot be used. The text is the reason it is set aside with."""


class MalformedMessage(MessageError):
    """A message that does not decode, or contradicts itself."""


class ForgedMessage(MessageError):
    """A message whose signature is not that of somebody who may send it, or that has none where one is asked for."""


class UnfitMessage(MessageError):
    """A message that decodes but does not fit this run: wrong run, shape, numbers or size."""


class DamagedBody(UnfitMessage):
    """A body that is not the one which a header announces: somebody else than its sender may have changed it."""


class ReplayedMessage(UnfitMessage):
    """A signed message that is of no use here any more: anybody who once read it can have sent it again."""
