"""What live views are made of: rows of a label and its content, cut to the available width."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rich.console import Console, ConsoleOptions, RenderResult
from rich.filesize import decimal, pick_unit_and_suffix
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from console.printable import metric_text, printable
from console.trend import Trend
from console.watching import LinkChanged, Transferring

_LABEL_WIDTH, _WIDE_LABEL_WIDTH = 9, 14
_WIDE = 70
_MIN_BAR_WIDTH, _MAX_BAR_WIDTH = 8, 40
_MAX_NAME = 24
_MAX_NOTE_LINES = 3
_MAX_TRENDS = 4
_UNITS = ["bytes", "kB", "MB", "GB", "TB"]


class Rows:
    """A live view as it is at one moment."""

    def __init__(self) -> None:
        self._rows: list[_Bar | _Words | _Note | _Items] = []

    def bar(self, label: str, done: float, total: float, words: str | Text, *, style: str = "cyan") -> None:
        """A bar, followed by words."""
        self._rows.append(_Bar(label, done, total, _text(words), style))

    def words(self, label: str, words: str | Text) -> None:
        """One line; what does not fit is left out."""
        self._rows.append(_Words(label, _text(words)))

    def remark(self, label: str, words: str | Text) -> None:
        """A sentence, on up to three lines."""
        self._rows.append(_Note(label, _text(words)))

    def keys(self, *, is_finishing: bool) -> None:
        """What Ctrl-C does now."""
        if is_finishing:
            self.remark("", Text("finishing; Ctrl-C again stops at once", style="bold yellow"))
        else:
            self.remark("", Text("Ctrl-C finishes cleanly, twice stops at once", style="dim"))

    def items(self, label: str, items: Iterable[Text], *, num_more: int = 0, max_lines: int = 3) -> None:
        """Items side by side, on up to ``max_lines`` lines; the last line ends with the number of those left out."""
        self._rows.append(_Items(label, list(items), num_more, max_lines))

    def trends(self, trends: Sequence[Trend]) -> None:
        """A row for each of the first few metrics."""
        for trend in trends[:_MAX_TRENDS]:
            if trend.last is not None and trend.best is not None:
                self._rows.append(_Words(trend.name, Text(), trend))

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        most = _WIDE_LABEL_WIDTH if options.max_width >= _WIDE else _LABEL_WIDTH
        label_width = min(most, max([_LABEL_WIDTH, *(len(row.label) for row in self._rows)]))
        width = max(1, options.max_width - label_width - 1)
        grid = Table.grid(padding=(0, 1, 0, 0))
        grid.add_column(width=label_width, no_wrap=True, style="dim")
        grid.add_column(max_width=width)
        for row in self._rows:
            for label, line in row.lines(width, console=console, is_ascii=options.ascii_only):
                grid.add_row(Text(label, overflow="ellipsis", no_wrap=True), line)
        yield grid


@dataclass(frozen=True, slots=True)
class _Bar:
    label: str
    done: float
    total: float
    words: Text
    style: str

    def lines(self, width: int, *, console: Console, is_ascii: bool) -> list[tuple[str, Table | Text]]:
        bar_width = min(_MAX_BAR_WIDTH, max(_MIN_BAR_WIDTH, width // 3))
        bar = ProgressBar(
            total=max(self.total, 1e-9),
            completed=min(self.done, self.total),
            width=bar_width,
            complete_style=self.style,
            finished_style="green" if self.style == "cyan" else self.style,
        )
        line = Table.grid(padding=(0, 2, 0, 0))
        line.add_column(width=bar_width)
        line.add_column(max_width=max(1, width - bar_width - 2))
        line.add_row(bar, _on_one_line(self.words))
        return [(self.label, line)]


@dataclass(frozen=True, slots=True)
class _Words:
    label: str
    words: Text
    trend: Trend | None = None

    def lines(self, width: int, *, console: Console, is_ascii: bool) -> list[tuple[str, Table | Text]]:
        words = self.words if self.trend is None else _trend_words(self.trend, width, is_ascii=is_ascii)
        return [(self.label, _on_one_line(words))]


@dataclass(frozen=True, slots=True)
class _Note:
    label: str
    words: Text

    def lines(self, width: int, *, console: Console, is_ascii: bool) -> list[tuple[str, Table | Text]]:
        lines = self.words.wrap(console, width)[:_MAX_NOTE_LINES]
        return [(self.label if index == 0 else "", _on_one_line(line)) for index, line in enumerate(lines)]


@dataclass(frozen=True, slots=True)
class _Items:
    label: str
    items: Sequence[Text]
    num_more: int
    max_lines: int

    def lines(self, width: int, *, console: Console, is_ascii: bool) -> list[tuple[str, Table | Text]]:
        lines, num_shown = _packed(self.items, width, self.max_lines)
        num_more = self.num_more + len(self.items) - num_shown
        if num_more and lines:
            more = Text(f"  and {num_more:,} more", style="dim")
            lines[-1].truncate(max(0, width - more.cell_len), overflow="ellipsis")
            lines[-1].append_text(more)
        return [(self.label if index == 0 else "", _on_one_line(line)) for index, line in enumerate(lines)]


def _packed(items: Sequence[Text], width: int, max_lines: int) -> tuple[list[Text], int]:
    """The items on lines of that width, and how many of them fitted."""
    lines: list[Text] = []
    for number, item in enumerate(items):
        if lines and lines[-1].cell_len + 2 + item.cell_len <= width:
            lines[-1].append("  ").append_text(item)
        elif len(lines) < max_lines:
            lines.append(item.copy())
        else:
            return lines, number
    return lines, len(items)


def _trend_words(trend: Trend, width: int, *, is_ascii: bool) -> Text:
    assert trend.last is not None
    assert trend.best is not None
    style, verdict = {None: ("", ""), True: ("green", " better"), False: ("yellow", " worse")}[trend.is_better]
    words = Text(f"{metric_text(trend.last)} ").append(f"{trend.arrow}{verdict}", style=style)
    words.append(" " * max(0, len("→ better") - len(trend.arrow) - len(verdict)))
    best = f"best {metric_text(trend.best[1])}, round {trend.best[0]}"
    room = min(32, width - words.cell_len - len(best) - 4)
    if room >= 4 and not is_ascii:
        words.append("  ").append(trend.sparkline(room).ljust(room), style="cyan")
    return words.append("  ").append(best, style="dim")


def _on_one_line(words: Text) -> Text:
    words.no_wrap, words.overflow = True, "ellipsis"
    return words


def _text(words: str | Text) -> Text:
    return words if isinstance(words, Text) else Text(printable(words))


def name_of(name: str) -> str:
    """A worker's name, cut to what a view has room for."""
    return printable(name, at_most=_MAX_NAME)


def duration(seconds: float) -> str:
    """Minutes and seconds, or with hours, such as 0:41 and 1:02:03."""
    whole = max(0, int(seconds))
    hours, minutes = divmod(whole // 60, 60)
    return f"{hours}:{minutes:02}:{whole % 60:02}" if hours else f"{minutes}:{whole % 60:02}"


class Flow:
    """The newest transfer in one direction; it stays in view, with its speed, until the next one."""

    def __init__(self, label: str) -> None:
        self._label = label
        self._newest: Transferring | None = None
        self._begun: dict[str, float] = {}
        """Since when each transfer has been under way: there may be several."""
        self._begun_at = self._moved_at = 0.0
        self._is_broken = False

    def on_event(self, event: Transferring, *, now: float) -> None:
        if event.num_bytes == 0:
            self._begun[event.what] = now
        self._is_broken = False
        self._begun_at = self._begun.get(event.what, now)
        if event.num_bytes == event.total_bytes:
            self._begun.pop(event.what, None)
        self._newest, self._moved_at = event, now

    def over(self, what: str | None = None) -> None:
        """This transfer (None: any) is not under way any more; if the newest is incomplete, it broke off."""
        newest = self._newest
        if what is None:
            self._begun.clear()
        else:
            self._begun.pop(what, None)
        if newest is not None and what in (None, newest.what):
            self._is_broken = newest.num_bytes < newest.total_bytes

    def show(self, rows: Rows) -> None:
        event = self._newest
        if event is None:
            return
        seconds = self._moved_at - self._begun_at
        speed = f"  {decimal(round(event.num_bytes / seconds))}/s" if seconds > 0 and event.num_bytes else ""
        words = Text(f"{_share(event)}{speed}  ")
        words.append(printable(event.what, at_most=_MAX_NAME + 10), style="dim")
        if self._is_broken:
            words.append("  broke off", style="yellow")
        rows.bar(self._label, event.num_bytes, event.total_bytes, words)


def _share(event: Transferring) -> str:
    """Such as ``52.4 of 104.9 MB``, and ``104.9 MB`` when all of it is there."""
    total = decimal(event.total_bytes)
    if event.num_bytes == event.total_bytes:
        return total
    unit, suffix = pick_unit_and_suffix(event.total_bytes, _UNITS, 1000)
    return f"{event.num_bytes / unit:.1f} of {event.total_bytes / unit:.1f} {suffix}"


class Links:
    """What is wrong with the connections to the broker."""

    def __init__(self) -> None:
        self._problems: dict[str, tuple[str, float]] = {}

    def on_link(self, change: LinkChanged, *, now: float) -> None:
        before = self._problems.pop(change.name, None)
        if change.problem is not None:
            self._problems[change.name] = (change.problem, before[1] if before else now)

    def show(self, rows: Rows, *, now: float) -> None:
        for problem, since in list(self._problems.values())[:1]:
            rows.remark("broker", Text(f"for {duration(now - since)}: {printable(problem)}", style="yellow"))
