"""What a worker tells of itself: whether it waits, trains or sends, in which round, and how far it is."""

import secrets
from collections.abc import Callable
from typing import Literal

from broker import Transport
from broker.wire import MAX_OBJECTION, PRESENCE_EVERY_S, Presence, Trust, encode
from worker.events import StateChanged, Watcher


class SignsOfLife:
    """The newest sign of life of one worker; sent when it changes, and at intervals.

    ``every_s`` are the most seconds between two calls of ``announce``, which the caller sees to; ``announce_soon`` has
    it called without waiting for it.
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
        said_s = None if every_s == PRESENCE_EVERY_S else every_s  # None is what 0.1.0 understands
        self.newest = Presence(worker=name, instance=secrets.token_hex(8), state="idle", every_s=said_s)

    def set(
        self,
        state: Literal["idle", "training", "sending", "leaving"],
        round_number: int = 0,
        *,
        at_once: bool = False,
        objection: str | None = None,
    ) -> None:
        """What the worker does from now on. ``at_once`` waits until that is sent."""
        self.newest = Presence(
            worker=self.newest.worker,
            instance=self.newest.instance,
            state=state,
            round=round_number,
            every_s=self.newest.every_s,
            objection=None if objection is None else objection[:MAX_OBJECTION],
        )
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
