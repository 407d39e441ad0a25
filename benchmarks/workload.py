"""What every system is given to do, and the result of one run."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from benchmarks.figures import MB, Row, Spread, Usage
from benchmarks.place import Failed


@dataclass(frozen=True, slots=True)
class Workload:
    """No-op training: each worker adds a constant to the model and sends it back."""

    name: str
    num_bytes: int
    num_rounds: int
    """Rounds that count; one before them does not, and one after them ends the last."""
    num_workers: int = 4
    num_tensors: int = 20
    """Of fedmq's model; others have 20."""
    timeout_s: float = 300.0

    @property
    def rounds_to_run(self) -> int:
        return self.num_rounds + 2

    @property
    def moved_bytes(self) -> int:
        """What goes through the workers in a round: the model to each, an update from each."""
        return 2 * self.num_workers * self.num_bytes


@dataclass(frozen=True, slots=True)
class Opened:
    """When the rounds of a run were opened, as Unix times; the first round does not count."""

    times: Sequence[float]

    def __post_init__(self) -> None:
        if len(self.times) < 3:
            raise Failed(f"only {len(self.times)} rounds were opened")

    @property
    def seconds(self) -> list[float]:
        """From one round to the next."""
        counted = self.times[1:]
        return [after - before for before, after in pairwise(counted)]

    @property
    def since(self) -> float:
        return self.times[1]

    @property
    def until(self) -> float:
        return self.times[-1]


def row_of(workload: Workload, system: str, seconds: Sequence[float], usage: Usage, *, note: str = "") -> Row:
    spread = Spread.of(seconds)
    return Row(
        workload=workload.name,
        system=system,
        value=spread,
        mb_per_s=workload.moved_bytes / MB / spread.median,
        usage=usage,
        note=note,
    )


def failed_row(workload: Workload, system: str, reason: Exception | str) -> Row:
    return Row(workload=workload.name, system=system, note=f"failed: {reason}")
