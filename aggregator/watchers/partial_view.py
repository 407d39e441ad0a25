"""The live view of a partial aggregator."""

import threading
import time
from collections.abc import Callable

from rich.console import Console, ConsoleOptions, RenderResult

from aggregator.events import (
    PartialEvent,
    ShardFinished,
    ShardLed,
    ShardRoundOpened,
    StandingBy,
    SumDropped,
    SumSent,
    UpdatePassedOn,
    UpdateSummed,
)
from console import LinkChanged, Links, Rows, Transferring, duration


class PartialView:
    """Watches one partial aggregator from its start to its end, standing by included. Any thread may call it."""

    def __init__(self, shard: str, *, queue: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._shard, self._queue = shard, queue
        self._clock = clock
        self._since = clock()
        self._lock = threading.RLock()  # a signal handler may interrupt the holder
        self._links = Links()
        self._is_finishing = False
        self._forget_run("connecting")

    def _forget_run(self, state: str) -> None:
        self._state = state
        self._round: ShardRoundOpened | None = None
        self._num_summed = self._num_sums = self._num_passed_on = 0
        self._is_over = False

    def on_event(self, event: PartialEvent) -> None:
        """Takes what happened."""
        with self._lock:
            match event:
                case StandingBy():
                    self._forget_run("standing by: another aggregator leads this shard")
                case ShardLed():
                    self._forget_run("waiting for a model")
                case ShardRoundOpened():
                    self._round, self._num_summed = event, 0
                case UpdateSummed():
                    self._num_summed += 1
                case SumSent():
                    self._num_sums += 1
                case SumDropped():
                    self._num_summed -= event.num_updates
                case UpdatePassedOn():
                    self._num_passed_on += 1
                case Transferring():
                    pass
                case ShardFinished():
                    self._is_over = True

    @property
    def is_over(self) -> bool:
        return self._is_over

    def on_link(self, change: LinkChanged) -> None:
        with self._lock:
            self._links.on_link(change, now=self._clock())

    def finishing(self) -> None:
        self._is_finishing = True

    def place(self) -> str:
        return "" if self._round is None else f"in round {self._round.round}"

    def doing(self) -> str:
        return "leaving; updates that are in no sum go back onto the queue"

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        rows = Rows()
        now = self._clock()
        rows.words("partial", f"shard {self._shard}  queue {self._queue}  {duration(now - self._since)}")
        with self._lock:
            if self._round is None:
                rows.remark("state", self._state)
            else:
                self._show(rows, self._round)
            self._links.show(rows, now=now)
        if self.is_over:
            rows.remark("state", "the run is finished")
        else:
            rows.keys(is_finishing=self._is_finishing)
        yield rows

    def _show(self, rows: Rows, current: ShardRoundOpened) -> None:
        rows.words("run", current.run_id)
        num_closed = current.num_rounds if self.is_over else current.round - 1
        words = f"round {current.round} of {current.num_rounds}"
        rows.bar("rounds", num_closed, current.num_rounds, "finished" if self.is_over else words)
        if not self.is_over:
            rows.words(f"round {current.round}", f"{self._num_summed:,} updates in a sum")
        rows.words("sent", f"{self._num_sums:,} sums; {self._num_passed_on:,} updates passed on as they came")
