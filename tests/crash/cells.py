"""Running a federation in which members die at given points and are started again, each time with the same command."""

import signal
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from crash.fleet import BLOB, COMMIT_AT_ONCE, TASK, Fleet
from crash.points import SMALL, Point
from crash.remembering_task import DIVERGING
from zygote import zygote

NAMES = ("anna", "ben")
NUM_ROUNDS = 3
PACES = {"anna": 0.0, "ben": 0.12}
"""Anna's update comes first, and is committed before Ben's comes."""
CLEO = "cleo"
REMEMBERING = f"{Path(__file__).with_name('remembering_task.py')}:Remembering"

CELL_TIMEOUT_S = 60.0
EMPTY_STREAM_S = {"broker.rabbitmq.transport:COUNT_LAGS_S": 0.2}
"""For the first start alone, where there is surely no head to wait for."""


@dataclass(frozen=True, slots=True)
class Cell:
    """A federation with a size of model, and the points at which its members die, start after start."""

    size: str
    points: tuple[Point, ...]
    """Of one member, the first is armed at its first start, the next one at its second, and so on."""
    num_shards: int = 0
    toys: str = ""
    """What stands in for fedmq's own accumulator; see toys.py."""
    optimizer: str = ""
    """The server's, if it is not the default."""
    correction: str = ""
    """Of local training, if there is one; then workers have a ``--state``."""
    sample: str = ""
    """Who takes part in a round, if not everybody."""
    remembers: bool = False
    """Three workers that remember, diverge at times, and measure the last model; see remembering_task.py."""

    @property
    def name(self) -> str:
        sample = f"sample {self.sample}" if self.sample else ""
        kind = self.toys or self.optimizer or self.correction or sample or self.size
        kind = "remembering" if self.remembers else kind
        return f"{' then '.join(f'{point.member}: {point.name}' for point in self.points)} [{kind}]"


@dataclass(slots=True)
class Outcome:
    """What came of one run."""

    sha256: str | None = None
    best: Any = None
    """The best round, and its metric."""
    problems: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)
    """What stays on the broker that nobody will take."""
    seconds: float = 0.0
    logs: str = ""

    @property
    def is_ok(self) -> bool:
        return not self.problems

    def __str__(self) -> str:
        return "\n".join([*self.problems, f"left on the broker: {', '.join(self.left) or 'nothing'}", self.logs])


def run_cell(cell: Cell, folder: Path, *, url: str, queue: str, expected: Outcome | None) -> Outcome:
    """Runs it to its end. ``expected`` came of the undisturbed run; None: whatever comes is right."""
    outcome = Outcome()
    begun_at = time.monotonic()
    flags = () if cell.size == SMALL else BLOB
    chosen = {"--server-optimizer": cell.optimizer, "--correction": cell.correction, "--sample": cell.sample}
    with Fleet(
        folder,
        url=url,
        queue=queue,
        names=(*NAMES, CLEO) if cell.remembers else NAMES,
        rounds=NUM_ROUNDS,
        flags=flags,
        aggregator_flags=(*COMMIT_AT_ONCE, *(word for flag, name in chosen.items() if name for word in (flag, name))),
        worker_flags=("--state", str(folder / "carried")) if cell.remembers or cell.correction else (),
        paces=PACES | {"ben": 0.3} if cell.remembers else PACES,  # one of three comes first, and one last
        num_shards=cell.num_shards,
        toys=cell.toys,
        task=REMEMBERING if cell.remembers else TASK,
        without=DIVERGING if cell.remembers else (),
    ) as fleet:
        _run(fleet, cell, outcome)
        outcome.sha256, outcome.best = fleet.final_sha256, fleet.best
        if expected is not None and outcome.sha256 != expected.sha256:
            outcome.problems.append(f"the final model is {outcome.sha256}, and {expected.sha256} if nothing disturbs")
        if expected is not None and outcome.best != expected.best:
            outcome.problems.append(f"the best round is {outcome.best}, and {expected.best} if nothing disturbs")
        miscounted = fleet.miscounted()
        if miscounted:
            outcome.problems.append(f"(round, worker): times folded, of those not folded once: {miscounted}")
        outcome.seconds = time.monotonic() - begun_at
        outcome.logs = fleet.logs()
    outcome.left = fleet.delete_queues()
    return outcome


def _run(fleet: Fleet, cell: Cell, outcome: Outcome) -> None:
    armed = {name: [point for point in cell.points if point.member == name] for name in fleet.everybody}
    current: dict[str, Point | None] = {}

    def start(name: str, *, is_first: bool) -> None:
        current[name] = armed[name].pop(0) if armed[name] else None
        point = current[name]
        fleet.start(name, point.trigger(cell.size) if point else None, constants=EMPTY_STREAM_S if is_first else {})

    for name in fleet.everybody:
        start(name, is_first=True)
    running, deadline = set(fleet.everybody), time.monotonic() + CELL_TIMEOUT_S
    while running:
        if not _wait_for_an_end(fleet, running, deadline):
            outcome.problems.append(f"after {CELL_TIMEOUT_S:g} s these go on: {', '.join(sorted(running))}")
            for name in running:
                fleet.show_stack(name)
            return
        for name in [name for name in running if not fleet.members[name].is_running]:
            status, point = fleet.members[name].status, current[name]
            if point is not None and status == -signal.SIGKILL:
                start(name, is_first=False)
                continue
            running.remove(name)
            if point is not None:
                outcome.problems.append(f"{name} ended with {status} and never came to '{point.name}'")
            elif status:
                outcome.problems.append(f"{name} ended with {status}")
                return
    unreached = [point.name for points in armed.values() for point in points]
    if unreached:
        outcome.problems.append(f"never armed, for want of an earlier crash: {', '.join(unreached)}")


def _wait_for_an_end(fleet: Fleet, running: set[str], deadline: float) -> bool:
    changed = zygote().changed
    with changed:
        return changed.wait_for(
            lambda: any(not fleet.members[name].is_running for name in running), max(0.0, deadline - time.monotonic())
        )


def table(results: Mapping[tuple[str, str], str], rows: Sequence[str], columns: Sequence[str]) -> list[str]:
    """Lines of a table: ``results`` has a cell's text for (row, column)."""
    width = max(len(row) for row in rows)
    cells = [(row, [results.get((row, column), "-") for column in columns]) for row in rows]
    return [f"{name:{width}}  {'  '.join(f'{text:>8}' for text in texts)}" for name, texts in [("", columns), *cells]]
