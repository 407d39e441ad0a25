"""What the page of one run shows, sent to all its viewers whenever it changes.

There is one reader a run, however many viewers it has, and none without viewers. It polls the ledger's version, which
costs next to nothing, and reads the ledger only when the version has changed.
"""

import asyncio
import json
import math
import sqlite3
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

from aggregator.history import History, outline, overview, without_folder
from console import StateError

_LOOK_EVERY_S = 0.5
_LIVE_EVERY_S = 2.0
_REST = 5.0
"""A ledger that takes a second to read is read every six."""
_MANY_UPDATES = 20_000
"""From here on, a viewer is first sent what can be told without looking at each of them."""
Live = Callable[[], dict[str, Any] | None]


class Feed:
    """The feed of one run. ``live`` returns the run's current status from the broker; called every two seconds."""

    def __init__(self, state: Path, *, live: Live | None = None) -> None:
        self._state = state
        self._live = live
        self._changed = asyncio.Condition()
        self._newest: str | None = None
        self._num_looking = 0
        self._is_over = False
        self._reader: asyncio.Task[None] | None = None

    async def messages(self) -> AsyncIterator[str]:
        """The page's data as JSON: at once, and whenever it changes. A slow viewer skips versions."""
        self._num_looking += 1
        if self._reader is None:
            self._reader = asyncio.create_task(self._read())
        shown: str | None = None
        try:
            while True:
                async with self._changed:
                    while self._newest in (None, shown) and not self._is_over:
                        await self._changed.wait()
                    shown = self._newest
                if shown is None or self._is_over:
                    return
                yield shown
        finally:
            self._num_looking -= 1
            if not self._num_looking:
                self._stop_reading()

    async def end(self) -> None:
        """Ends all ``messages``: the server is about to end."""
        async with self._changed:
            self._is_over = True
            self._changed.notify_all()

    def _stop_reading(self) -> None:
        if self._reader is not None:
            self._reader.cancel()
        self._reader, self._newest = None, None

    async def _read(self) -> None:
        while True:
            try:
                with History(self._state) as history:
                    await self._follow(history)
            except (StateError, sqlite3.Error, OSError) as error:  # not begun yet, replaced, or unreadable
                await self._send({"waiting_for": without_folder(str(error), self._state)})
            await asyncio.sleep(_LOOK_EVERY_S)

    async def _follow(self, history: History) -> None:
        known: object = None
        live, live_at = None, -_LIVE_EVERY_S
        data: dict[str, Any] = {}
        read_at, took_s = -math.inf, 0.0
        if history.num_decided() > _MANY_UPDATES:
            await self._send(outline(history) | {"live": None})
        while history.facts:
            version, before, now = history.version(), live, asyncio.get_running_loop().time()
            if self._live is not None and now - live_at >= _LIVE_EVERY_S:
                live, live_at = await self._ask_broker(history), now
            if version != known and now - read_at >= _REST * took_s:
                data, known = await asyncio.to_thread(overview_in, self._state), version
                read_at = asyncio.get_running_loop().time()
                took_s = read_at - now
                await self._send(data | {"live": live})
            elif live != before:
                await self._send(data | {"live": live})
            await asyncio.sleep(_LOOK_EVERY_S)

    async def _ask_broker(self, history: History) -> dict[str, Any] | None:
        """The broker's status of this run; None if another run is on the queue by now."""
        assert self._live is not None
        live = await asyncio.to_thread(self._live)
        return live if live is not None and live["run_id"] == history.facts["run_id"] else None

    async def _send(self, data: dict[str, Any]) -> None:
        async with self._changed:
            self._newest = json.dumps(data)
            self._changed.notify_all()


def overview_in(state: Path) -> dict[str, Any]:
    """With a connection of its own: the reader that waits for it may be cancelled, and closes what it has opened."""
    with History(state) as history:
        return overview(history)
