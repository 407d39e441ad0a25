"""The live view of a keeper."""

import threading
import time
from collections.abc import Callable

from rich.console import Console, ConsoleOptions, RenderResult

from console import Flow, LinkChanged, Links, Rows, Transferring, duration
from keeper.events import Charged, Event, Expanded, Released, Serving, StandingBy, Withholding


class KeeperView:
    """Watches one keeper from its start to its end, standing by included. Any thread may call it."""

    is_over = False

    def __init__(self, name: str, *, queue: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._name, self._queue = name, queue
        self._clock = clock
        self._since = clock()
        self._lock = threading.RLock()  # a signal handler may interrupt the holder
        self._links, self._upload = Links(), Flow("↑ sum")
        self._is_finishing = False
        self._state = "connecting"
        self._serving: Serving | None = None
        self._num_given = self._num_refused = 0
        self._round = 0
        self._last = self._refusal = ""
        self._budget: Charged | None = None

    def on_event(self, event: Event) -> None:
        """Takes what happened."""
        with self._lock:
            match event:
                case StandingBy():
                    self._state = "standing by: another process is this keeper"
                    self._serving = None
                case Serving():
                    self._state = f"waiting for requests; sums of at least {event.min_sites} sites"
                    self._serving = event
                case Expanded():
                    self._round = event.round
                    self._last = f"round {event.round}: {event.num_masks:,} masks expanded ahead"
                case Released():
                    self._upload.over()
                    self._round = event.round
                    self._num_given += not event.is_repeat
                    again = " once more" if event.is_repeat else ""
                    self._last = (
                        f"round {event.round}: sum of {event.num_updates:,} masks of {event.num_sites:,} sites"
                        f"{again} in {event.seconds:.2f} s"
                    )
                case Withholding():
                    self._num_refused += 1
                    self._refusal = f"round {event.round}, asked by {event.asker}: {event.reason}"
                case Charged():
                    self._budget = event
                case Transferring():
                    self._upload.on_event(event, now=self._clock())

    def on_link(self, change: LinkChanged) -> None:
        with self._lock:
            self._links.on_link(change, now=self._clock())

    def finishing(self) -> None:
        self._is_finishing = True

    def place(self) -> str:
        return f"in round {self._round}" if self._round else ""

    def doing(self) -> str:
        return "leaving; what is not answered goes back onto the queue"

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        rows, now = Rows(), self._clock()
        with self._lock:
            rows.words("keeper", f"{self._name}  queue {self._queue}  {duration(now - self._since)}")
            rows.remark("state", self._state)
            if self._serving is not None:
                given = self._serving.num_releases + self._num_given
                rows.words("given", f"{given:,} sums, {self._num_given:,} of them now; {self._num_refused:,} refused")
            if self._last:
                rows.words("last", self._last)
            if self._refusal:
                rows.remark("refused", self._refusal)
            if self._budget is not None:
                rows.words("budget", _budget_words(self._budget))
            self._upload.show(rows)
            self._links.show(rows, now=now)
        rows.keys(is_finishing=self._is_finishing)
        yield rows


def _budget_words(budget: Charged) -> str:
    return f"epsilon {budget.epsilon:.3g} at delta {budget.delta:g}; {budget.releases_left:,} sums left"
