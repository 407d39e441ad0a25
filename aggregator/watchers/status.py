"""The aggregator's status for people elsewhere (``fl-status``): made from its events, sent now and then."""

import heapq
import logging
import math
import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import replace

from aggregator.events import (
    CommandTaken,
    Committed,
    Event,
    RoundClosed,
    RoundMoved,
    RoundOpened,
    RunEnded,
    RunOpened,
    RunStopped,
    UpdateDecided,
    UpdatesOutvoted,
    UpdateWithdrawn,
    WorkerSeen,
)
from aggregator.presence import Present
from aggregator.state import CommandRow, UpdateRow, Verdict
from broker import Transport
from broker.wire import MAX_ANSWERS, MAX_LISTED, Answer, Presence, Status, Trust, WorkerStatus, encode
from console import Heartbeat

log = logging.getLogger(__name__)

_EVERY_S = 10.0
_NEVER_S = 1e9
"""Stands for an infinite deadline, which a message cannot hold."""


class StatusBoard:
    """What is known at the moment: ``on_event`` takes the events; ``status`` may be called from another thread.

    It holds the newest sign of life of each worker present, and the names of those that answered in the open round.
    """

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
        self._round = self._last_closed = 0
        self._is_finished = self._is_stopped = False
        self._commands: deque[CommandRow] = deque(maxlen=MAX_ANSWERS)
        self._seen: Present[tuple[Presence, float]] = Present()
        self._answered: dict[str, bool] = {}
        """Worker -> whether its update is committed; otherwise it may still be undone."""
        self._unable: dict[str, str] = {}
        """Worker -> why it has no update for the open round."""

        self._outvoted: Counter[str] = Counter()
        """Worker -> how many of its updates were left out."""

    def on_event(self, event: Event) -> None:
        """Takes what happened."""
        with self._lock:
            match event:
                case RunOpened():
                    self._run = replace(event, closed=(), commands=())
                    self._round = self._last_closed = event.last_closed_round
                    self._commands.extend(event.commands)
                    self._outvoted = Counter(event.outvoted)
                case RoundOpened():
                    self._round, self._move = event.round, None
                    self._answered = dict.fromkeys(event.answered, True)
                    self._unable = dict(event.unable)
                case RoundMoved():
                    self._on_move(event)
                case WorkerSeen():
                    self._on_presence(event.presence)
                case UpdateDecided():
                    self._on_answer(event.row, is_committed=False)
                case UpdateWithdrawn():
                    self._answered.pop(event.worker, None)
                case UpdatesOutvoted():
                    self._outvoted.update(event.scores.keys())
                case Committed():
                    for row in event.rows:
                        self._on_answer(row, is_committed=True)
                case CommandTaken():
                    self._commands.append(event.row)
                    if self._run is not None:
                        self._run = replace(self._run, num_rounds=event.num_rounds)
                case RoundClosed():
                    self._last_closed = int(event.row["round"])
                    self._seen.forget_silent(now=self._now())
                case RunEnded():
                    self._is_finished, self._round = True, self._last_closed
                case RunStopped():
                    self._is_stopped = True

    def _on_move(self, move: RoundMoved) -> None:
        if self._move is not None and move.num_folded < self._move.num_folded:  # some were undone: they come again
            self._answered = {worker: True for worker, is_committed in self._answered.items() if is_committed}
        self._move = move

    def _on_answer(self, row: UpdateRow, *, is_committed: bool) -> None:
        if row.worker is None or row.round != self._round:
            return
        if row.verdict is Verdict.DIVERGED and row.base_round == self._round:
            self._unable[row.worker] = row.reason or ""
        if row.verdict is Verdict.FOLDED:
            self._unable.pop(row.worker, None)
            self._answered[row.worker] = is_committed or self._answered.get(row.worker, False)

    def _on_presence(self, presence: Presence) -> None:
        if presence.state == "leaving":
            self._seen.leave(presence.worker)
            return
        now = self._now()
        self._seen.heard(presence.worker, (presence, now), until=now + presence.gone_after_s)

    def status(self) -> Status | None:
        """None before the run is open."""
        with self._lock:  # as briefly as possible: the service waits for it
            self._seen.forget_silent(now=self._now())
            run, move, number = self._run, self._move, self._round
            is_finished, is_stopped = self._is_finished, self._is_stopped
            seen, answered, commands = self._seen.copied(), self._answered.copy(), tuple(self._commands)
            unable, outvoted = self._unable.copy(), self._outvoted.copy()
        if run is None:
            return None
        listed = heapq.nsmallest(MAX_LISTED, seen)
        deadline_in_s = math.inf if move is None or move.deadline_at is None else move.deadline_at - self._clock()
        is_due = deadline_in_s < _NEVER_S and not (is_finished or is_stopped)
        return Status(
            run=run.run,
            run_id=run.run_id,
            state="finished" if is_finished else "stopped" if is_stopped else "running",
            sent_at=self._now(),
            round=number,
            num_rounds=run.num_rounds,
            num_folded=move.num_folded if move else len(answered),
            target=move.target if move else 0,
            num_present=max(move.num_present if move else 0, len(seen)),
            num_chosen=move.num_chosen if move else None,
            deadline_at=self._now() + deadline_in_s if is_due else None,
            num_shards=self._num_shards,
            workers=tuple(
                _status_of(
                    *seen[name],
                    has_answered=name in answered,
                    no_update=unable.get(name),
                    num_outvoted=outvoted[name],
                )
                for name in listed
            ),
            num_more_workers=len(seen) - len(listed),
            is_paused=move is not None and move.is_paused and not (is_finished or is_stopped),
            answers=tuple(Answer(id=row.id, is_accepted=row.is_accepted, text=row.result) for row in commands),
        )


def _status_of(
    presence: Presence, seen_at: float, *, has_answered: bool, no_update: str | None, num_outvoted: int
) -> WorkerStatus:
    assert presence.state != "leaving"
    return WorkerStatus(
        name=presence.worker,
        state=presence.state,
        round=presence.round,
        progress=presence.progress,
        seen_at=seen_at,
        has_answered=has_answered,
        objection=presence.objection,
        no_update=no_update or None,
        num_outvoted=num_outvoted,
    )


class StatusSender:
    """Inside a ``with``, sends the status within a second of every change, every ten seconds, and at the end.

    If sending fails, it logs the error and sends no more; the run goes on.
    """

    def __init__(self, transport: Transport, *, num_shards: int = 0, trust: Trust) -> None:
        self._transport, self._trust = transport, trust
        self._board = StatusBoard(num_shards=num_shards)
        self._heartbeat = Heartbeat(self._send, every_s=lambda: _EVERY_S)
        self._has_failed = False

    def on_event(self, event: Event) -> None:
        """Takes what happened, and sends the status soon."""
        self._board.on_event(event)
        self._heartbeat.soon()

    def __enter__(self) -> "StatusSender":
        self._heartbeat.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._heartbeat.__exit__(*error)
        self._send()

    def _send(self) -> None:
        if self._has_failed:
            return
        try:
            status = self._board.status()
            if status is not None:
                self._transport.send_status(encode(status, trust=self._trust))
        except Exception:
            self._has_failed = True
            log.exception("cannot send the snapshot for fl-status; sending no more of them; the run goes on")
