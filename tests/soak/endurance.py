"""Many rounds, with workers that come and go, and what the processes and the broker hold meanwhile and afterwards.

python -m soak.endurance --rounds 1000
"""

import argparse
import os
import random
import signal
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil
from crash.fleet import AGGREGATOR, BLOB, Fleet
from rabbitmq_node import RabbitNode, wait_until

STEADY, VISITORS = "steady", ("anna", "ben")
QUORUM = 2
STANDS_STILL_S = 120.0
SAMPLE_EVERY_S = 0.2
MIB = 2**20
MOST_GROWTH = 0.05
FEW = 2
"""Files or threads that somebody may have more for a moment, such as while a connection is made anew."""


@dataclass(frozen=True, slots=True)
class Sample:
    """What one process holds while this round is open."""

    round: int
    rss_bytes: int
    num_files: int
    num_threads: int


@dataclass(slots=True)
class Report:
    """What was seen in one run."""

    num_rounds: int
    samples: dict[str, list[Sample]] = field(default_factory=lambda: {AGGREGATOR: [], STEADY: []})
    num_visits: int = 0
    num_kills: int = 0
    statuses: dict[str, int | None] = field(default_factory=dict)
    queues: dict[str, int] = field(default_factory=dict)
    """Name -> messages of every queue that is there when all have left; names without the federation's own."""
    num_connections: int = 0
    files: list[str] = field(default_factory=list)
    """Of the state directory, at the end."""
    verdicts: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0
    logs: str = ""

    def rss_bytes(self, name: str, around: int) -> float:
        """The mean memory of a process in the tenth of the run around a round."""
        width = max(1, self.num_rounds // 20)
        found = [sample.rss_bytes for sample in self.samples[name] if abs(sample.round - around) <= width]
        return sum(found) / len(found)

    def growth(self, name: str, since: int) -> float:
        """The share by which a process holds more in the last rounds than around this one."""
        return self.rss_bytes(name, self.num_rounds) / self.rss_bytes(name, since) - 1

    def largest(self, name: str, what: str, *, until: int) -> int:
        return max(int(getattr(sample, what)) for sample in self.samples[name] if sample.round <= until)

    def problems(self, since: int) -> list[str]:
        """What should not be: memory, files or threads that grew since a round, a bad end, or something left behind."""
        found = [f"{name} ended with {status}" for name, status in self.statuses.items() if status]
        for name in self.samples:
            growth = self.growth(name, since)
            if growth > MOST_GROWTH:
                found.append(f"{name} holds {growth:.1%} more memory at the end than at round {since}")
            for what in ("num_files", "num_threads"):
                before, after = (self.largest(name, what, until=number) for number in (since, self.num_rounds))
                if after > before + FEW:
                    found.append(f"{name} has {what} {after}, and {before} until round {since}")
        found += [f"queue {name or 'of updates'} is left" for name in self.queues if not self._may_stay(name)]
        if self.num_connections:
            found.append(f"{self.num_connections} connections are left")
        found += [f"file {name} is left" for name in self.files if name.startswith("sum-") or name.endswith(".tmp")]
        return found

    def _may_stay(self, name: str) -> bool:
        """The federation's own queues, and the final model, for workers that look later."""
        is_final = ".blob.model." in name and name.endswith(f".{self.num_rounds + 1}")
        return name in ("", ".models", ".dead", ".statuses", ".commands") or is_final

    def lines(self, since: int) -> list[str]:
        lines = [
            f"{self.num_rounds} rounds in {self.seconds:.0f} s; visitors came {self.num_visits} times,"
            f" {self.num_kills} were killed; updates: {self.verdicts}"
        ]
        for name in self.samples:
            lines.append(
                f"{name:10}  {self.rss_bytes(name, since) / MIB:6.1f} MiB at round {since},"
                f" {self.rss_bytes(name, self.num_rounds) / MIB:6.1f} MiB at the end ({self.growth(name, since):+.2%});"
                f" files {self.largest(name, 'num_files', until=since)} and"
                f" {self.largest(name, 'num_files', until=self.num_rounds)} at most,"
                f" threads {self.largest(name, 'num_threads', until=since)} and"
                f" {self.largest(name, 'num_threads', until=self.num_rounds)}"
            )
        lines.append(f"left: queues {self.queues}, {self.num_connections} connections, files {', '.join(self.files)}")
        return lines


def endure(folder: Path, node: RabbitNode, *, num_rounds: int, is_large: bool, seed: int = 0) -> Report:
    """Runs it. One worker stays, two come and go, so that a round always gets its quorum."""
    report, draw = Report(num_rounds), random.Random(seed)
    queue = f"soak-{os.getpid()}-{num_rounds}"
    begun_at = time.monotonic()
    with Fleet(
        folder,
        url=node.url,
        queue=queue,
        names=(STEADY, *VISITORS),
        rounds=num_rounds,
        quorum=QUORUM,
        flags=BLOB if is_large else (),
    ) as fleet:
        for name in fleet.everybody:
            fleet.start(name)
        _watch(fleet, report, draw)
        for name in (AGGREGATOR, STEADY, *VISITORS):
            report.statuses[name] = fleet.members[name].wait(30.0)
        report.seconds = time.monotonic() - begun_at
        report.logs = fleet.logs()
        report.verdicts = fleet.num_verdicts()
        report.files = sorted(str(path.relative_to(fleet.state)) for path in fleet.state.rglob("*") if path.is_file())
    report.queues, report.num_connections = _left(node, queue)
    return report


def _watch(fleet: Fleet, report: Report, draw: random.Random) -> None:
    """Until the aggregator ends: samples, and has the visitors leave and come back, one at a time."""
    processes = {name: psutil.Process(fleet.members[name].pid) for name in report.samples}
    aggregator = fleet.members[AGGREGATOR]
    away: str | None = None
    turns_at = draw.randint(3, 10)
    progress_at, last = time.monotonic(), 0
    while not wait_until(lambda: not aggregator.is_running, timeout_s=SAMPLE_EVERY_S):
        number = fleet.num_opened_rounds()
        if number > last:
            progress_at, last = time.monotonic(), number
        assert time.monotonic() - progress_at < STANDS_STILL_S, f"round {number} does not end\n{fleet.logs()}"
        for name, process in processes.items():
            with suppress(psutil.NoSuchProcess):
                report.samples[name].append(_sample(process, number))
        if number < turns_at:
            continue
        if away is None:
            away = draw.choice(VISITORS)
            is_killed = draw.random() < 0.3
            report.num_kills += is_killed
            fleet.members[away].signal(signal.SIGKILL if is_killed else signal.SIGTERM)
            turns_at = number + draw.randint(1, 5)
        elif fleet.members[away].wait(0.0) is not None:
            fleet.start(away)
            report.num_visits += 1
            away = None
            turns_at = number + draw.randint(3, 10)
    if away is not None:
        fleet.members[away].wait(30.0)
        fleet.start(away)  # so that it hears of the end as the others do


def _sample(process: psutil.Process, number: int) -> Sample:
    with process.oneshot():
        return Sample(number, process.memory_info().rss, process.num_fds(), process.num_threads())


def _left(node: RabbitNode, queue: str) -> tuple[dict[str, int], int]:
    """What is on the broker of this federation."""
    rows = [line.split("\t") for line in node.ctl("list_queues", "name", "messages").splitlines()]
    own = {row[0].removeprefix(queue): int(row[1]) for row in rows if row[0].startswith(queue)}
    connections = node.ctl("list_connections", "client_properties").splitlines()
    return own, sum("fedmq" in line for line in connections)


def main() -> int:
    parser = argparse.ArgumentParser(prog="soak.endurance", description=__doc__)
    parser.add_argument("--rounds", type=int, default=1000)
    parser.add_argument("--small", action="store_true", help="models and updates within their messages, not in blobs")
    given = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="soak-"))
    with RabbitNode(folder / "node") as node:
        report = endure(folder / "run", node, num_rounds=given.rounds, is_large=not given.small)
    since = min(100, given.rounds // 2)
    for line in report.lines(since):
        print(line)
    problems = report.problems(since)
    for problem in problems:
        print(f"PROBLEM: {problem}")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
