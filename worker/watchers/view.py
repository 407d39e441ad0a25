"""What a worker's operator sees while it takes part: events in, rows of a live view out."""

import math
import threading
import time
from collections.abc import Callable, Mapping

from rich.console import Console, ConsoleOptions, RenderResult
from rich.filesize import decimal

from broker.wire import ModelHead, Presence
from console import Flow, LinkChanged, Links, Rows, Transferring, Trend, duration, name_of
from learning import AT_SITES, IN_TRAINING, Direction
from worker.events import (
    Event,
    ModelReceived,
    NotChosen,
    RoundLeft,
    RoundTrained,
    RunFinished,
    StateChanged,
    UpdateSent,
)


class WorkerView:
    """Watches one worker. Any thread may pass it events, and ask for its rows.

    ``presence`` says what the worker does now, with its training progress.
    """

    def __init__(
        self,
        name: str,
        *,
        queue: str,
        presence: Callable[[], Presence | None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.is_over = False
        self._round = 0
        self._name, self._queue = name, queue
        self._presence = presence
        self._clock = clock
        self._lock = threading.RLock()  # a signal handler may interrupt whoever holds it
        self._state = "idle"
        self._since = clock()
        self._is_finishing = False
        self._head: ModelHead | None = None
        self._num_sent = self._sent_bytes = self._received_bytes = 0
        self._last = ""
        self._trends: dict[str, Trend] = {}
        self._upload, self._download = Flow("↑ update"), Flow("↓ model")
        self._links = Links()

    # -- what happens ---------------------------------------------------------------------------------------

    def on_event(self, event: Event) -> None:
        with self._lock:
            self._on_presence(event)

    def _on_presence(self, event: Event) -> None:
        match event:
            case StateChanged(presence=presence):
                self._state, self._since = presence.state, self._clock()
                self._round = presence.round or self._round
                self._download.over()
            case Transferring():
                (self._upload if event.is_upload else self._download).on_event(event, now=self._clock())
            case ModelReceived(head=head, num_bytes=num_bytes):
                self._head, self._round = head, head.round
                self._received_bytes += num_bytes
            case RoundTrained():
                self._on_metrics(event.round, IN_TRAINING, event.metrics)
                self._on_metrics(event.round, AT_SITES, event.eval_metrics)
                self._last = f"{event.num_samples:,} samples in {event.train_s:.2f} s"
            case UpdateSent(num_bytes=num_bytes):
                self._num_sent += 1
                self._sent_bytes += num_bytes
            case RoundLeft(round=number, reason=reason):
                self._upload.over()
                self._last = f"round {number}: {reason}"
            case NotChosen(head=head):
                self._head, self._round = head, head.round
                self._last = f"round {head.round}: others are chosen"
            case RunFinished(num_rounds=num_rounds):
                self.is_over = True
                self._last = f"the run is finished after {num_rounds} rounds"

    def on_link(self, change: LinkChanged) -> None:
        with self._lock:
            self._links.on_link(change, now=self._clock())

    def finishing(self) -> None:
        self._is_finishing = True

    def place(self) -> str:
        return f"in round {self._round}" if self._round else ""

    def doing(self) -> str:
        if self._state == "sending":
            return f"sending the update for round {self._round}"
        return f"leaving round {self._round}" if self._state == "training" else "leaving"

    def _on_metrics(self, round_number: int, prefix: str, metrics: Mapping[str, float]) -> None:
        for name, value in metrics.items():
            key = f"{prefix}{name}"
            self._trends.setdefault(key, Trend(key, Direction.of(name))).add(round_number, value)

    # -- what is seen ---------------------------------------------------------------------------------------

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield self.rows()

    def rows(self) -> Rows:
        """The view as it is now."""
        rows = Rows()
        with self._lock:
            self._show(rows, self._clock())
        return rows

    def _show(self, rows: Rows, now: float) -> None:
        head = self._head
        run = f"  run {head.run_id}" if head else ""
        rows.words("worker", f"{name_of(self._name)}{run}  queue {self._queue}")
        if head is not None:
            num_closed = head.num_rounds if self.is_over else head.round - 1
            words = f"round {head.round} of {head.num_rounds}"
            rows.bar("rounds", num_closed, head.num_rounds, "finished" if self.is_over else words)
        if not (self.is_over and self._state == "leaving"):  # which the rounds have said
            self._show_state(rows, now)
        rows.trends([self._trends[name] for name in sorted(self._trends)])
        if self._num_sent or self._received_bytes:
            words = f"{self._num_sent} updates, {decimal(self._sent_bytes)}"
            rows.words("sent", f"{words}  received {decimal(self._received_bytes)}")
        if self._last:
            rows.remark("last", self._last)
        self._download.show(rows)
        self._upload.show(rows)
        self._links.show(rows, now=now)
        if self._state == "leaving":
            return
        rows.keys(is_finishing=self._is_finishing)

    def _show_state(self, rows: Rows, now: float) -> None:
        elapsed_s = now - self._since
        if self._state == "training":
            presence = self._presence()
            progress = presence.progress if presence is not None else 0.0
            words = f"{progress:.0%}  {duration(elapsed_s)}"
            if progress > 0.02:
                words += f"  {duration(math.ceil(elapsed_s / progress * (1 - progress)))} to go"
            rows.bar("training", progress, 1.0, words)
        elif self._state == "idle":
            what = f"the model of round {self._round + 1}" if self._round else "a model"
            rows.words("waiting", f"for {what}  {duration(elapsed_s)}")
        else:
            rows.words("state", f"{self._state}  {duration(elapsed_s)}" if self._state == "sending" else self._state)
