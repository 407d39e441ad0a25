"""``fl-simulate``: a whole federation on one machine, and beside it what single sites and pooled data reach."""

import contextlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from aggregator.events import Event, RoundClosed
from aggregator.report import write_report
from aggregator.service import Aggregator
from aggregator.settings import AggregatorSettings
from broker.command import configure_logging, exit_code_of, on_signals
from broker.errors import ExitCode
from broker.memory import MemoryBroker, MemoryTransport
from broker.rabbitmq import RabbitMQ
from broker.settings import read_settings
from broker.topology import Topology
from learning import Site, Task, load_task
from simulation.baselines import Baseline, compare, sampled_sites
from simulation.embedded import run_embedded
from simulation.processes import WorkerProcesses
from simulation.settings import SimulationSettings
from simulation.slot import Slot
from simulation.slot_process import SlotPlan, SlotProcess

_PROG = "fl-simulate"
_DESCRIPTION = "Runs a whole federation on this machine: over the embedded broker, or over a RabbitMQ."
_EXAMPLES = """\
  fl-simulate --task digits --workers 8 --rounds 20 --partition dirichlet:0.5
  fl-simulate --task my_task.py:task --workers 4 --state runs/mine      (run again: goes on)
  fl-simulate --task digits --workers 1000 --rounds 5 --jobs 2
  fl-simulate --task digits --workers 4 --broker amqp://guest:guest@localhost:5672/"""


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    return exit_code_of(lambda: _command(argv), prog=_PROG)


def _command(argv: Sequence[str] | None) -> ExitCode:
    settings = read_settings(SimulationSettings, argv, prog=_PROG, description=_DESCRIPTION, examples=_EXAMPLES)
    configure_logging("WARNING" if settings.log_level == "INFO" else settings.log_level)
    torch.set_num_threads(1)
    console = Console(stderr=False)
    simulation = Simulation(settings, console)
    summary = simulation.run()
    if summary is None:
        console.print(f"stopped; to go on: the same command with --state {simulation.folder}")
        return ExitCode.INTERRUPTED
    if settings.baselines and "baselines" not in summary:
        summary = simulation.add_baselines(summary)
    report = write_report(simulation.folder)
    console.print(_table(summary))
    console.print(
        f"model  {summary['final']['model_sha256']}\nstate  {simulation.folder}\nreport {report}", soft_wrap=True
    )
    return ExitCode.OK


class _SoFar:
    """How far a run is, for the progress bar: rounds that are closed, and answers within the open one."""

    def __init__(self, tell: Callable[[float, str], None], *, num_workers: int) -> None:
        self._tell = tell
        self._num_workers = num_workers
        self._num_closed, self._metrics = 0, ""

    def look(self, event: Event) -> None:
        if isinstance(event, RoundClosed):
            row = event.row
            self._num_closed, self._metrics = int(row["round"]), _shown(row["metrics"] or row["worker_metrics"])
            self._tell(self._num_closed, self._metrics)

    def answered(self, num_answered: int) -> None:
        if num_answered < self._num_workers:
            share = num_answered / self._num_workers
            self._tell(self._num_closed + share, f"{self._metrics}  {num_answered} of {self._num_workers} workers")


class Simulation:
    """One simulated run and its folder."""

    def __init__(self, settings: SimulationSettings, console: Console) -> None:
        self._settings = settings
        self._console = console
        self._run_settings: AggregatorSettings = settings.of_aggregator()
        self._task: Task = load_task(settings.task, Site(partition=settings.partition))

    @property
    def folder(self) -> Path:
        return self._run_settings.state

    def run(self) -> dict[str, Any] | None:
        """Runs to the end; returns the summary, or None if it was stopped before."""
        with self._progress("federated", self._settings.rounds) as tell:
            so_far = _SoFar(tell, num_workers=self._settings.workers)
            is_finished = self._embedded(so_far) if self._settings.broker is None else self._over_rabbitmq(so_far)
        return self._summary() if is_finished else None

    def _embedded(self, so_far: "_SoFar") -> bool:
        broker = MemoryBroker()
        settings = self._run_settings.model_copy(update={"quorum": self._quorum_of_all()})
        with contextlib.ExitStack() as stack:
            aggregator = Aggregator(settings, self._task, MemoryTransport(broker), on_event=so_far.look)
            slots = self._slots(stack)

            def stop() -> None:
                aggregator.stop()
                for slot in slots:
                    slot.stop()

            on_signals(stop)
            run_embedded(aggregator, broker, slots, on_answer=so_far.answered)
        return aggregator.is_finished

    def _quorum_of_all(self) -> str:
        """A share as a count: here all workers are always present, however long one of them trains."""
        return str(self._run_settings.policy.quorum.target(self._settings.workers))

    def _slots(self, stack: contextlib.ExitStack) -> list[Slot]:
        """One slot here, or as many processes as jobs."""
        settings = self._settings
        jobs = min(settings.jobs or _num_cores(), settings.workers)
        plans = [
            SlotPlan(
                task=settings.task,
                partition=settings.partition,
                queue=self._run_settings.queue,
                inline_cap=settings.inline_cap,
                log_level="WARNING" if settings.log_level == "INFO" else settings.log_level,
                num_sites=settings.workers,
                state=self.folder / "workers",
                indices=range(job, settings.workers, jobs),
            )
            for job in range(jobs)
        ]
        if jobs == 1:
            return [plans[0].open()]
        return [stack.enter_context(SlotProcess(plan)) for plan in plans]

    def _over_rabbitmq(self, so_far: "_SoFar") -> bool:
        transport = RabbitMQ(self._run_settings, role="simulation")
        with contextlib.closing(transport):
            aggregator = Aggregator(self._run_settings, self._task, transport, on_event=so_far.look)
            workers = WorkerProcesses(
                self._settings,
                queue=self._run_settings.queue,
                logs=self.folder / "workers",
                on_failure=aggregator.stop,
            )
            with workers:
                on_signals(aggregator.stop)
                aggregator.start()
                aggregator.run()
                if not aggregator.is_finished:
                    workers.terminate()
            workers.check()
            if aggregator.is_finished and self._settings.queue is None:
                _remove_queues(transport, self._run_settings.queue, self._summary())
        return aggregator.is_finished

    def _summary(self) -> dict[str, Any]:
        loaded: dict[str, Any] = json.loads((self.folder / "summary.json").read_text(encoding="utf-8"))
        return loaded

    def add_baselines(self, summary: dict[str, Any]) -> dict[str, Any]:
        """The summary with both baselines, written back; as it is if the task has no central test data."""
        if not summary["final"].get("metrics"):
            return summary
        settings = self._settings
        baseline = Baseline(
            task=settings.task,
            partition=settings.partition,
            num_sites=settings.workers,
            rounds=int(summary["final"]["round"]),
            seed=settings.seed,
            local=settings.local,
            initial=_initial_state(self._task, settings.seed),
        )
        num_done = 0
        with self._progress("for comparison", len(sampled_sites(settings.workers)) + 1) as tell:

            def on_step(what: str) -> None:
                nonlocal num_done
                num_done += 1
                tell(num_done, what)

            summary = summary | {"baselines": compare(baseline, self._task, on_step=on_step)}
        (self.folder / "summary.json").write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
        return summary

    @contextlib.contextmanager
    def _progress(self, what: str, total: int) -> Iterator[Callable[[float, str], None]]:
        columns = (TextColumn(f"{what:<15}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        with Progress(*columns, TextColumn("{task.fields[note]}"), console=self._console) as progress:
            bar = progress.add_task("", total=total, note="")
            yield lambda completed, note: progress.update(bar, completed=completed, note=note)


def _num_cores() -> int:
    """Those that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _remove_queues(transport: RabbitMQ, queue: str, summary: Mapping[str, Any]) -> None:
    """Of a simulation that had a queue of its own; nobody else is on it."""
    last = summary["final"]["round"]
    topology = Topology(queue)
    transport.delete_blobs([topology.model_blob(summary["run_id"], number) for number in (last, last + 1)])
    transport.remove()


def _initial_state(task: Task, seed: int) -> dict[str, torch.Tensor]:
    torch.manual_seed(seed)
    return dict(task.model().state_dict())


def _shown(metrics: Mapping[str, float]) -> str:
    return "  ".join(f"{name} {value:.4f}" for name, value in metrics.items() if not name.endswith("num_samples"))


def _table(summary: Mapping[str, Any]) -> Table:
    """The federated result, and beside it what each alternative reaches."""
    final = summary["final"]
    federated = final.get("metrics") or final.get("worker_metrics") or {}
    names = [name for name in federated if not name.endswith("num_samples")]
    table = Table(title=f"after {final['round']} rounds, on {'central test data' if final.get('metrics') else 'sites'}")
    table.add_column("")
    for name in names:
        table.add_column(name, justify="right")

    def add(title: str, metrics: Mapping[str, float]) -> None:
        table.add_row(title, *(f"{metrics[name]:.4f}" if name in metrics else "" for name in names))

    add("federated", federated)
    baselines = summary.get("baselines", {})
    if "single_mean" in baselines:
        add(f"one site alone (mean of {_number_of_sites(baselines)})", baselines["single_mean"])
    if "pooled" in baselines:
        add("all data in one place", baselines["pooled"])
    return table


def _number_of_sites(baselines: Mapping[str, Any]) -> str:
    num_trained, num_sites = len(baselines["single_sites"]), baselines.get("num_sites")
    return str(num_trained) if num_sites in (None, num_trained) else f"{num_trained} of {num_sites}"


if __name__ == "__main__":
    raise SystemExit(main())
