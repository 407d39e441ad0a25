"""What a worker tells of itself: whether it waits, trains or sends, in which round, and how far it is."""

import secrets
from collections.abc import Callable
from typing import Literal

from broker import Transport
from broker.wire import MAX_OBJECTION, PRESENCE_EVERY_S, Presence, Trust, encode
from worker.events import StateChanged, Watcher

_SPREAD = 0.1
"""Part of the interval."""


class SignsOfLife:
    """The newest sign of life of one worker; sent when it changes, and at intervals.

    The caller sees to it that ``announce`` is called every ``every_s`` seconds; ``announce_soon`` has it called without
    waiting for it. ``every_s`` is at first as given; where many workers are there, their aggregator asks for more.
    """

    def __init__(
        self,
        *,
        name: str,
        every_s: float,
        transport: Transport,
        trust: Trust,
        on_event: Watcher,
        announce_soon: Callable[[], None] | None,
    ) -> None:
        self._transport, self._trust, self._on_event = transport, trust, on_event
        self._announce_soon = announce_soon or self.announce
        self._own_s = self.every_s = every_s
        self.newest = Presence(worker=name, instance=secrets.token_hex(8), state="idle", every_s=_said(every_s))

    def follow(self, asked_s: float | None) -> None:
        """Lets at least so much time pass between two of them, as the newest model's head has it; None: its own."""
        self.every_s = max(self._own_s, asked_s or 0.0)
        said = _said(self.every_s)
        if said != self.newest.every_s:
            self.newest = self.newest.model_copy(update={"every_s": said})

    @property
    def spread_s(self) -> float:
        """Within how long those of workers that all change at once, as a model arrives, should go out."""
        return _SPREAD * self.every_s if self.every_s > self._own_s else 0.0

    def say_soon(self) -> None:
        """Has the newest one sent though nothing changed."""
        self._announce_soon()

    def set(
        self,
        state: Literal["idle", "training", "sending", "leaving"],
        round_number: int = 0,
        *,
        at_once: bool = False,
        objection: str | None = None,
    ) -> None:
        """What the worker does from now on. ``at_once`` waits until that is sent."""
        objection = None if objection is None else objection[:MAX_OBJECTION]
        changes = {"state": state, "round": round_number, "progress": 0.0, "objection": objection}
        self.newest = self.newest.model_copy(update=changes)
        if at_once:
            self.announce()
        else:
            self._announce_soon()
        self._on_event(StateChanged(presence=self.newest))

    def set_round(self, number: int) -> None:
        """The round that is open while the worker sits it out; the next sign of life says so."""
        self.newest = self.newest.model_copy(update={"round": number, "objection": None})

    def set_progress(self, fraction: float) -> None:
        """How much of the training is done; the next sign of life says so."""
        self.newest = self.newest.model_copy(update={"progress": min(1.0, max(0.0, fraction))})

    def announce(self) -> None:
        """Sends the sign of life. May be called from any thread."""
        self._transport.announce(encode(self.newest, trust=self._trust), worker=self.newest.worker)


def _said(every_s: float) -> float | None:
    """An interval as a sign of life says it; None is the usual one, which 0.1.0 understands."""
    return None if every_s == PRESENCE_EVERY_S else every_s
