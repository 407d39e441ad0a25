"""The live view of an aggregator: events in, rows out."""

import math
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from itertools import islice
from statistics import median
from typing import Any

from rich.console import Console, ConsoleOptions, RenderResult
from rich.text import Text

from aggregator.events import (
    CommandTaken,
    Event,
    LastEvaluationOpened,
    RoundClosed,
    RoundMoved,
    RoundOpened,
    RunEnded,
    RunOpened,
    RunStopped,
    SitesMeasured,
    StandingBy,
    UpdateDecided,
    UpdateWithdrawn,
    WorkerSeen,
)
from aggregator.presence import Present
from aggregator.state import Aim, Verdict
from broker.wire import Presence
from console import Flow, LinkChanged, Links, Rows, Transferring, Trend, duration, name_of
from learning import at_sites, rank

_MAX_LOOKED_AT = 2000
"""How many of the workers present are searched for names to show; a view has room for a few dozen."""
_MAX_ITEMS = 60
_ROUNDS_LIKE_THE_NEXT = 9
"""The last ones, of whose durations the median is what a further one takes: a pause in one of them does not count."""
_MARKS = {  # none for late updates: they were for another round
    Verdict.FOLDED: ("✓", "green"),
    Verdict.REFUSED: ("✗", "red"),
    Verdict.DUPLICATE: ("✓", "green"),
    Verdict.DIVERGED: ("✗", "red"),
    Verdict.MEASURED: ("✓", "green"),
}
_COUNTED_STYLES = {
    Verdict.LATE: "yellow",
    Verdict.REFUSED: "red",
    Verdict.DUPLICATE: "dim",
    Verdict.OUTVOTED: "yellow",
    Verdict.WITHDRAWN: "yellow",
    Verdict.DIVERGED: "red",
    Verdict.UNSELECTED: "yellow",
}
"""Verdict -> how its number is shown, besides that of the folded ones."""
_BY_THE_WORKER = (Verdict.FOLDED, Verdict.DIVERGED, Verdict.MEASURED)
_STATE_MARKS = {"training": ("▸", "cyan"), "sending": ("↑", "blue")}


class AggregatorView:
    """Watches one aggregator from its start to its end, standing by included.

    Any thread may pass events and render it; it holds a few numbers a worker. ``title`` is the first line, by default
    the run, its queue and its state directory. With ``forgets_silent``, a worker is shown while it sends signs of life;
    otherwise, until it leaves.
    """

    def __init__(
        self, *, title: str = "", forgets_silent: bool = True, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._clock = clock
        self._title = title
        self._forgets_silent = forgets_silent
        self._lock = threading.RLock()  # a signal handler may interrupt the holder
        self._is_finishing = False
        self._links = Links()
        self._forget_run("connecting")

    def _forget_run(self, state: str) -> None:
        """Forgets everything about a run, which another aggregator may have taken over."""
        self._state = state
        self._round = 0
        self._ended_at: float | None = None
        self._run: RunOpened | None = None
        self._run_opened_at = self._round_opened_at = self._clock()
        self._move: RoundMoved | None = None
        self._num_closed = 0
        self._took_s: deque[float] = deque(maxlen=_ROUNDS_LIKE_THE_NEXT)
        self._seen: Present[Presence] = Present()
        self._answers: dict[str, Verdict] = {}
        self._counts: Counter[str] = Counter()
        self._open_counts: Counter[str] = Counter()
        self._aim = Aim()
        self._trends: dict[str, Trend] = {}
        self._upload, self._download = Flow("↑ model"), Flow("↓ update")

    # -- events in ------------------------------------------------------------------------------------------

    def on_event(self, event: Event) -> None:
        with self._lock:
            self._handle(event)

    def _handle(self, event: Event) -> None:
        match event:
            case WorkerSeen(presence=presence):
                self._on_presence(presence)
            case UpdateDecided():
                self._on_update(event)
            case UpdateWithdrawn(worker=worker):
                self._on_withdrawn(worker)
            case RoundMoved():
                self._move = event
            case Transferring():
                (self._upload if event.is_upload else self._download).on_event(event, now=self._clock())
            case RoundOpened():
                self._open_round(event)
            case RoundClosed():
                self._close_round(event)
            case SitesMeasured(row=row):
                if not row["metrics"]:
                    self._add_metrics(row, at_sites(row["worker_metrics"]))
            case LastEvaluationOpened(round=number):
                self._move, self._state = None, f"the sites measure the model after round {number}"
            case StandingBy(queue=queue):
                self._forget_run(f"standing by: another aggregator leads queue '{queue}'")
            case RunOpened():
                self._open_run(event)
            case CommandTaken(num_rounds=num_rounds):
                if self._run is not None:
                    self._run = replace(self._run, num_rounds=num_rounds)
            case RunEnded(reason=reason):
                self._ended_at = self._clock()
                self._state = f"finished: {reason}"
            case RunStopped(round=number):
                self._state = f"stopped in round {number}"
                self._move = None
            case _:
                pass

    def on_link(self, change: LinkChanged) -> None:
        with self._lock:
            self._links.on_link(change, now=self._clock())

    def finishing(self) -> None:
        self._is_finishing = True

    @property
    def is_over(self) -> bool:
        return self._ended_at is not None

    def doing(self) -> str:
        return f"committing round {self._round}" if self._round else "leaving"

    def place(self) -> str:
        return f"in round {self._round}" if self._round else ""

    def _on_presence(self, presence: Presence) -> None:
        if presence.state == "leaving":
            self._seen.leave(presence.worker)
            return
        until = self._clock() + presence.gone_after_s if self._forgets_silent else math.inf
        self._seen.heard(presence.worker, presence, until=until)

    def _on_update(self, event: UpdateDecided) -> None:
        row = event.row
        self._download.over(f"update of {row.worker}" if event.shard is None else f"sum of shard {event.shard}")
        self._open_counts[row.verdict] += row.num_messages
        if row.worker is None or row.verdict not in _MARKS or self._answers.get(row.worker) is Verdict.FOLDED:
            return
        if row.worker in self._seen or row.verdict in _BY_THE_WORKER:  # a refused update may bear any name
            self._answers[row.worker] = row.verdict

    def _on_withdrawn(self, worker: str) -> None:
        self._answers.pop(worker, None)
        self._open_counts[Verdict.FOLDED] -= 1
        self._counts[Verdict.WITHDRAWN] += 1

    def _open_run(self, event: RunOpened) -> None:
        self._forget_run("")
        self._aim = event.aim
        for row in event.closed:
            self._on_row(row)
        self._run = replace(event, closed=())
        self._num_closed = event.last_closed_round

    def _open_round(self, event: RoundOpened) -> None:
        self._round, self._round_opened_at, self._move = event.round, self._clock(), None
        self._answers = dict.fromkeys(event.answered, Verdict.FOLDED) | dict.fromkeys(event.unable, Verdict.DIVERGED)
        self._open_counts.clear()
        self._open_counts[Verdict.FOLDED] = event.num_folded
        self._upload.over()
        self._state = ""

    def _close_round(self, event: RoundClosed) -> None:
        self._on_row(event.row)
        self._open_counts.clear()

    def _on_row(self, row: Mapping[str, Any]) -> None:
        self._num_closed = self._round = int(row["round"])
        if row.get("seconds") is not None:
            self._took_s.append(row["seconds"])
        for verdict in (Verdict.FOLDED, Verdict.LATE, Verdict.REFUSED, Verdict.DUPLICATE, Verdict.DIVERGED):
            self._counts[verdict] += int(row[f"num_{verdict}"] or 0)
        for verdict in (Verdict.UNSELECTED, Verdict.OUTVOTED):
            self._counts[verdict] += int(row.get(f"num_{verdict}") or 0)
        self._add_metrics(row, row["metrics"] or row["worker_metrics"])

    def _add_metrics(self, row: Mapping[str, Any], metrics: Mapping[str, float]) -> None:
        for name, value in metrics.items():
            trend = self._trends.setdefault(name, Trend(name, self._aim.direction_of(name)))
            trend.add(int(row["round"]), value)

    # -- rows out -------------------------------------------------------------------------------------------

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield self.rows()

    def rows(self) -> Rows:
        """The rows to show now."""
        rows = Rows()
        with self._lock:
            self.show(rows)
            self.show_state(rows)
        return rows

    def show(self, rows: Rows) -> None:
        """Adds the rows of the run. The caller holds the lock, or is the only thread."""
        now = self._clock()
        if self._title:
            rows.words("run", self._title)
        if self._run is not None:
            self._show_run(rows, self._run, now)
        if self._move is not None and self._ended_at is None:
            self._show_round(rows, self._move, now)
            self._show_workers(rows, now)
        rows.trends(self._ordered_trends())
        self._show_counts(rows)
        self._upload.show(rows)
        self._download.show(rows)
        self._links.show(rows, now=now)

    def show_state(self, rows: Rows) -> None:
        if self._state:
            rows.remark("state", self._state)
        if self._ended_at is not None or self._state.startswith("stopped"):
            return
        rows.keys(is_finishing=self._is_finishing)

    def _show_run(self, rows: Rows, run: RunOpened, now: float) -> None:
        if not self._title:
            rows.words("run", f"{run.run_id}  queue {run.queue}  state {run.state}")
        elapsed_s = (now if self._ended_at is None else self._ended_at) - self._run_opened_at
        words = f"{self._num_closed} of {run.num_rounds}  {duration(elapsed_s)}"
        num_left = run.num_rounds - self._num_closed
        if self._took_s and num_left > 0 and self._ended_at is None:
            words += f"  about {duration(math.ceil(median(self._took_s) * num_left))} to go"
        rows.bar("rounds", self._num_closed, run.num_rounds, words)

    def _show_round(self, rows: Rows, move: RoundMoved, now: float) -> None:
        words = f"{move.num_folded:,} of {move.target:,} updates"
        words += ", closing" if move.num_folded >= move.target else ""
        rows.bar(f"round {move.round}", move.num_folded, move.target, words)
        if move.deadline_at is None:
            return
        left_s, whole_s = move.deadline_at - now, move.deadline_at - self._round_opened_at
        words = f"{duration(math.ceil(left_s))} left" if left_s > 0 else "passed"
        style = "red" if move.is_extended or left_s < 0.1 * whole_s else "yellow"
        rows.bar("deadline", max(0.0, left_s), whole_s, words + (", extended" if move.is_extended else ""), style=style)

    def _show_workers(self, rows: Rows, now: float) -> None:
        self._seen.forget_silent(now=now)
        num_answered = sum(1 for verdict in self._answers.values() if verdict is Verdict.FOLDED)
        num_missing = len(self._seen) - sum(1 for name in self._answers if name in self._seen)
        words = Text(f"{len(self._seen):,} present")
        if self._move is not None and self._move.num_chosen is not None:
            words.append(f", {self._move.num_chosen:,} chosen")
        if num_answered:
            words.append(f", {num_answered:,} answered", style="green")
        if not self._seen and not num_answered:
            if not self._forgets_silent:
                return  # they are present, but have not sent a sign of life yet
            words.append("; waiting for some to join", style="dim")
        rows.words("workers", words)
        if len(self._seen.keys() | self._answers.keys()) <= _MAX_ITEMS:
            names = sorted(self._seen.keys() | self._answers.keys())
            num_more = 0
        else:
            names = list(islice(self._missing(), _MAX_ITEMS)) if num_missing else []
            num_more = num_missing - len(names)
        rows.items("", [self._item(name) for name in names], num_more=num_more)

    def _missing(self) -> Iterator[str]:
        """The workers present that have not answered."""
        return (name for name in islice(self._seen, _MAX_LOOKED_AT) if name not in self._answers)

    def _item(self, name: str) -> Text:
        presence = self._seen.get(name)
        verdict = self._answers.get(name)
        shown = name_of(name)
        if verdict is not None:
            mark, style = _MARKS[verdict]
            return Text(f"{mark} {shown}" + (" has no update" if verdict is Verdict.DIVERGED else ""), style=style)
        if presence is not None and presence.objection is not None:
            return Text(f"✗ {shown} objects", style="red")
        if presence is None or presence.state not in _STATE_MARKS:
            return Text(f"· {shown}", style="dim")
        mark, style = _STATE_MARKS[presence.state]
        progress = f" {presence.progress:.0%}" if presence.progress else ""
        return Text(f"{mark} {shown}{progress}", style=style)

    def _ordered_trends(self) -> list[Trend]:
        return sorted(self._trends.values(), key=lambda trend: rank(trend.name))

    def _show_counts(self, rows: Rows) -> None:
        counts = self._counts + self._open_counts
        if counts:
            words = Text(f"{counts[Verdict.FOLDED]:,} folded")
            for verdict, style in _COUNTED_STYLES.items():
                if counts[verdict]:
                    words.append(f", {counts[verdict]:,} {verdict}", style=style)
            rows.words("updates", words)
