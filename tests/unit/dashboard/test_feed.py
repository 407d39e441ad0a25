"""What a page's viewers are sent, and what is left of it when they go."""

import asyncio
import threading
from pathlib import Path
from typing import Any

import pytest
from page_server import OWN_TASK, SOON_S

from aggregator import History
from dashboard import feed
from dashboard.feed import Feed
from simulation import simulate


def test_a_viewer_that_leaves_while_the_ledger_is_read_takes_nothing_away_from_the_reading_thread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SQLite itself does not survive a connection closed under a query: the page was gone for everybody."""
    simulate(f"{OWN_TASK}:Spirals", workers=2, rounds=1, state=tmp_path / "run").close()
    is_reading, has_left, has_read = threading.Event(), threading.Event(), threading.Event()
    found: list[int] = []

    def slow_overview(history: History) -> dict[str, Any]:
        is_reading.set()
        assert has_left.wait(SOON_S)
        found.append(len(history.rounds()))
        has_read.set()
        return {}

    async def look_and_leave() -> None:
        looking = asyncio.ensure_future(anext(Feed(tmp_path / "run").messages()))
        assert await asyncio.to_thread(is_reading.wait, SOON_S)
        looking.cancel()
        await asyncio.wait([looking])
        for _ in range(10):  # for the reader to be cancelled, too
            await asyncio.sleep(0)
        has_left.set()
        assert await asyncio.to_thread(has_read.wait, SOON_S)

    monkeypatch.setattr(feed, "overview", slow_overview)
    asyncio.run(look_and_leave())
    assert found == [1]
