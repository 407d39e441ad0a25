"""What the aggregator says of itself for people elsewhere (``fl-status``): made from its events, sent now and then."""

import threading
import time
from collections.abc import Callable

from aggregator.events import (
    Event,
    RoundClosed,
    RoundMoved,
    RoundOpened,
    RunEnded,
    RunOpened,
    RunStopped,
    UpdateDecided,
    WorkerSeen,
)
from aggregator.ledger import Verdict
from aggregator.presence import ALIVE_S
from broker.codec import encode
from broker.heartbeat import Heartbeat
from broker.messages import MAX_LISTED, Presence, Status, WorkerStatus
from broker.transport import Transport

_EVERY_S = 10.0


class StatusBoard:
    """What is known at the moment: ``look`` takes the events, ``status`` may be asked for from another thread."""

    def __init__(
        self,
        *,
        num_shards: int = 0,
        now: Callable[[], float] = time.time,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._num_shards = num_shards
        self._now, self._clock = now, clock
        self._lock = threading.Lock()
        self._run: RunOpened | None = None
        self._move: RoundMoved | None = None
        self._round = 0
        self._is_finished = self._is_stopped = False
        self._seen: dict[str, tuple[Presence, float]] = {}
        self._answered: set[str] = set()

    def look(self, event: Event) -> None:
        """Takes what happened."""
        with self._lock:
            match event:
                case RunOpened():
                    self._run, self._round = event, event.last_closed_round
                case RoundOpened():
                    self._round = event.round
                    self._answered.clear()
                case RoundMoved():
                    self._move = event
                case WorkerSeen():
                    self._note(event.presence)
                case UpdateDecided() if event.row.verdict is Verdict.FOLDED and event.row.worker:
                    self._answered.add(event.row.worker)
                case RoundClosed():
                    self._forget_silent()
                case RunEnded():
                    self._is_finished = True
                case RunStopped():
                    self._is_stopped = True

    def _note(self, presence: Presence) -> None:
        self._seen.pop(presence.worker, None)
        if presence.state != "leaving":
            self._seen[presence.worker] = (presence, self._now())

    def _forget_silent(self) -> None:
        """The longest silent ones come first."""
        while self._seen:
            worker, (_, seen_at) = next(iter(self._seen.items()))
            if self._now() - seen_at <= ALIVE_S:
                return
            del self._seen[worker]

    def status(self) -> Status | None:
        """None before the run is open."""
        with self._lock:
            run, move = self._run, self._move
            if run is None:
                return None
            self._forget_silent()
            listed = sorted(self._seen)[:MAX_LISTED]
            is_over = self._is_finished or self._is_stopped
            deadline_at = None if move is None or is_over else move.deadline_at
            return Status(
                run=run.run,
                run_id=run.run_id,
                state="finished" if self._is_finished else "stopped" if self._is_stopped else "running",
                sent_at=self._now(),
                round=self._round,
                num_rounds=run.num_rounds,
                num_folded=move.num_folded if move else 0,
                target=move.target if move else 0,
                num_present=max(move.num_present if move else 0, len(self._seen)),
                deadline_at=None if deadline_at is None else self._now() + deadline_at - self._clock(),
                num_shards=self._num_shards,
                workers=tuple(self._worker(name) for name in listed),
                num_more_workers=len(self._seen) - len(listed),
            )

    def _worker(self, name: str) -> WorkerStatus:
        presence, seen_at = self._seen[name]
        assert presence.state != "leaving"
        return WorkerStatus(
            name=name,
            state=presence.state,
            round=presence.round,
            progress=presence.progress,
            seen_at=seen_at,
            has_answered=name in self._answered,
        )


class StatusSender:
    """Sends it within a second of every change, and every ten seconds, inside a ``with``; at its end once more."""

    def __init__(self, transport: Transport, *, num_shards: int = 0) -> None:
        self._transport = transport
        self._board = StatusBoard(num_shards=num_shards)
        self._heartbeat = Heartbeat(self._send, every_s=_EVERY_S)

    def look(self, event: Event) -> None:
        """Takes what happened, and sends it soon."""
        self._board.look(event)
        self._heartbeat.soon()

    def __enter__(self) -> "StatusSender":
        self._heartbeat.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._heartbeat.__exit__(*error)
        self._send()

    def _send(self) -> None:
        status = self._board.status()
        if status is not None:
            self._transport.tell_status(encode(status))
