"""What is on the broker at one moment: the aggregator's last status, and what waits on the queues."""

import time
from dataclasses import dataclass, field
from enum import StrEnum

from broker import ANSWERS_WITHIN_S, Patience, Queued, Transport
from broker.wire import Message, Protection, Signer, Status, Topology, Trust, decode_from
from console import BrokerError, MessageError, QueueMissing

_SAYS_EVERY_S = 10.0
"""A running aggregator sends its status at least this often."""
_QUIET_S = 3 * _SAYS_EVERY_S


class Condition(StrEnum):
    """The condition of the run."""

    UNHEARD = "unheard"
    """No aggregator leads, and there is no status."""
    STARTING = "starting"
    """An aggregator leads, and has sent no status yet."""
    RUNNING = "running"
    GONE = "gone"
    """The last status says running, but its aggregator no longer leads."""
    STOPPED = "stopped"
    """It was asked to stop; its command goes on from there."""
    FINISHED = "finished"


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What was on the broker at one moment."""

    at: float
    """The moment, in Unix time."""
    topology: Topology
    """With the shards that the aggregator's status names."""
    status: Status | None = None
    queued: dict[str, Queued] = field(default_factory=dict)
    """By queue: results, those of shards, dead letters."""
    problem: str | None = None
    """Why there is no newer snapshot."""
    signer: Signer | None = None
    """Who has signed the status; None: signatures are not checked."""
    protection: tuple[Protection, ...] = ()
    """How updates are protected by the roster at hand."""
    keepers: tuple[tuple[str, str], ...] = ()
    """(name, fingerprint) of the keepers on that roster."""

    @property
    def condition(self) -> Condition:
        status = self.status
        if status is None:
            return Condition.STARTING if self.is_led else Condition.UNHEARD
        if status.state == "running":
            return Condition.RUNNING if self.is_led else Condition.GONE
        return Condition(status.state)

    @property
    def is_led(self) -> bool:
        """Whether an aggregator reads the results queue; if that is unknown, whether its last status is recent."""
        results = self.queued.get(self.topology.updates)
        if results is None or results.fault is not None:
            return self.status is not None and not self._is_old
        return results.num_readers > 0

    @property
    def fault(self) -> str | None:
        """Why the broker cannot say whether an aggregator reads the results queue; None: it can."""
        results = self.queued.get(self.topology.updates)
        return None if results is None else results.fault

    @property
    def is_quiet(self) -> bool:
        """Whether an aggregator that should be running sends no status any more, be it there or not."""
        return self.status is not None and self.status.state == "running" and (not self.is_led or self._is_old)

    @property
    def is_over(self) -> bool:
        return self.condition is Condition.FINISHED

    @property
    def age_s(self) -> float | None:
        """How old the aggregator's last status is, in seconds, if its clock and ours agree."""
        return None if self.status is None else max(0.0, self.at - self.status.sent_at)

    @property
    def at_there(self) -> float:
        """The moment by the aggregator's clock; if the clocks differ, off by ten seconds at most while it runs."""
        if self.status is None:
            return self.at
        sent_at = self.status.sent_at
        latest = sent_at + _SAYS_EVERY_S if self.condition is Condition.RUNNING else self.at
        return max(sent_at, min(self.at, latest))

    @property
    def deadline_in_s(self) -> float | None:
        """Seconds until the round closes without its quorum; None: it does not, or nobody is there to close it."""
        status = self.status
        if status is None or status.deadline_at is None or self.condition is not Condition.RUNNING:
            return None
        return max(0.0, status.deadline_at - self.at_there)

    @property
    def num_waiting(self) -> dict[str, int]:
        """Messages by queue, of those that the broker can count."""
        return {name: queued.num_waiting for name, queued in self.queued.items() if queued.fault is None}

    @property
    def num_dead(self) -> int:
        return self.num_waiting.get(self.topology.dead, 0)

    @property
    def _is_old(self) -> bool:
        return self.age_s is not None and self.age_s > _QUIET_S


def take_snapshot(transport: Transport, topology: Topology, trust: Trust) -> Snapshot:
    """What the broker has now; ``trust`` says whose status counts.

    QueueMissing if no aggregator made the queues, or one too old to send a status. A BrokerUnreachable if it does not
    answer soon, to all that is asked.
    """
    patience = Patience.of(ANSWERS_WITHIN_S)
    message = _status(transport, topology, trust)
    status, signer = (None, None) if message is None else (message.header, message.signer)
    known = Topology(topology.queue, num_shards=status.num_shards if status else 0)
    queued = transport.queued([*known.update_queues, known.dead], within_s=patience.left_s)
    return Snapshot(time.time(), known, status, signer=signer, queued=queued)


def _status(transport: Transport, topology: Topology, trust: Trust) -> Message[Status] | None:
    try:
        body = transport.read_status()
    except QueueMissing as error:
        raise _missing(transport, topology) from error
    if body is None:
        return None
    try:
        return decode_from(body, Status, trust=trust)
    except MessageError as error:
        raise BrokerError(f"the message in {topology.statuses} is not an aggregator's: {error}") from error


def _missing(transport: Transport, topology: Topology) -> QueueMissing:
    if topology.updates in transport.queued([topology.updates]):
        return QueueMissing(
            f"queue '{topology.updates}' belongs to an older aggregator, which sends no status;"
            " start it again with this version of fedmq"
        )
    return QueueMissing(f"there is no queue '{topology.updates}': no aggregator was ever started for it there")
