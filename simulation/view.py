"""The live view of a simulation: its aggregator with the workers, who is training now, and then the comparison."""

from collections.abc import Callable, Sequence

from rich.console import Console, ConsoleOptions, RenderResult
from rich.text import Text

from aggregator.watchers import AggregatorView
from broker.wire import Presence
from console import Rows, duration, name_of


class SimulationView(AggregatorView):
    """Watches one simulation. ``training`` gives what the workers in this process are doing."""

    def __init__(self, title: str = "") -> None:
        super().__init__(
            title=title, forgets_silent=False
        )  # a worker in this process sends signs of life only in its turn
        self._is_done = False
        self.training: Callable[[], Sequence[Presence]] = tuple
        self._compared: tuple[int, int, str] | None = None
        self._compared_since = 0.0

    def compared(self, num_done: int, total: int, what: str) -> None:
        """Records that ``num_done`` of the trainings without federation are done."""
        with self._lock:
            if self._compared is None:
                self._compared_since = self._clock()
            self._compared = (num_done, total, what)

    def done(self) -> None:
        """Records that everything the command was started for is done."""
        self._is_done = True

    @property
    def is_over(self) -> bool:
        return self._is_done

    def doing(self) -> str:
        return "leaving the comparison" if self._compared else super().doing()

    def place(self) -> str:
        return "in the comparison" if self._compared else super().place()

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        rows = Rows()
        with self._lock:
            self.show(rows)
            self._show_training(rows)
            self._show_compared(rows)
            self.show_state(rows)
        yield rows

    def _show_training(self, rows: Rows) -> None:
        if self._ended_at is not None:
            return
        for presence in self.training():
            if presence.state == "training":
                rows.bar("training", presence.progress, 1.0, Text(name_of(presence.worker)))

    def _show_compared(self, rows: Rows) -> None:
        if self._compared is not None:
            num_done, total, what = self._compared
            words = f"{num_done} of {total}  {duration(self._clock() - self._compared_since)}  {what}"
            rows.bar("compare", num_done, total, words)
