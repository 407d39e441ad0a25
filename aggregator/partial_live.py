"""What a partial aggregator's person sees while a run goes on."""

import threading
import time
from collections.abc import Callable

from rich.console import Console, ConsoleOptions, RenderResult

from aggregator.events import StandingBy
from aggregator.partial import PartialAggregator, Progress
from console import LinkChanged, Links, Rows, duration


class PartialView:
    """Watches one partial aggregator, once it leads its shard."""

    def __init__(self, shard: str, *, queue: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._partial: PartialAggregator | None = None
        self._shard, self._queue = shard, queue
        self._clock = clock
        self._since = clock()
        self._lock = threading.Lock()
        self._links = Links()
        self._state = "connecting"
        self._is_finishing = False

    def look(self, event: StandingBy) -> None:
        self._partial = None
        self._state = "standing by: another aggregator leads this shard"

    def leads(self, partial: PartialAggregator) -> None:
        """From now on it is this one that is seen."""
        self._partial = partial

    @property
    def is_over(self) -> bool:
        return self._partial is not None and self._partial.is_finished

    def note_link(self, change: LinkChanged) -> None:
        with self._lock:
            self._links.note(change, now=self._clock())

    def finishing(self) -> None:
        self._is_finishing = True

    def place(self) -> str:
        return f"in round {self._progress.round}" if self._progress.round else ""

    def doing(self) -> str:
        return "leaving; updates that are in no sum go back onto the queue"

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        rows = Rows()
        now, progress = self._clock(), self._progress
        rows.words("partial", f"shard {self._shard}  queue {self._queue}  {duration(now - self._since)}")
        if self._partial is None:
            rows.note("state", self._state)
        elif not progress.round:
            rows.note("state", "waiting for a model")
        else:
            self._show(rows, progress)
        with self._lock:
            self._links.show(rows, now=now)
        if self.is_over:
            rows.note("state", "the run is finished")
        else:
            rows.keys(is_finishing=self._is_finishing)
        yield rows

    @property
    def _progress(self) -> Progress:
        return Progress() if self._partial is None else self._partial.progress

    def _show(self, rows: Rows, progress: Progress) -> None:
        rows.words("run", progress.run_id)
        num_closed = progress.num_rounds if self.is_over else progress.round - 1
        words = f"round {progress.round} of {progress.num_rounds}"
        rows.bar("rounds", num_closed, progress.num_rounds, "finished" if self.is_over else words)
        if not self.is_over:
            rows.words(f"round {progress.round}", f"{progress.num_folded:,} updates in a sum")
        rows.words("sent", f"{progress.num_sums:,} sums; {progress.num_passed_on:,} updates passed on as they came")
