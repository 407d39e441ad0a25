"""``fl-simulate``: a whole federation on one machine, compared with what single sites and pooled data reach."""

import contextlib
import json
import logging
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from aggregator import Aggregator, AggregatorSettings
from aggregator.events import Event, RoundClosed, Watcher
from aggregator.history import History, write_report
from aggregator.state import InitialModel, StateDirectory, check_result
from aggregator.watchers import StatusSender, evaluation_table, experiment_logs, privacy_text
from broker import MemoryBroker, MemoryTransport, Transport, connect
from broker.modules import ModelTensors
from broker.states import State
from broker.wire import ModelHead, decode
from console import (
    IS_SHOWN,
    BrokerUnreachable,
    ExitCode,
    Terminal,
    check_has_script,
    exit_code_of,
    fan_out,
    metric_text,
    metrics_text,
    private_files,
    read_settings,
    split_arguments,
)
from learning import Measured, Site, Task, load_task, made_by, rank
from learning.devices import deterministic
from learning.scripts import ScriptedModel
from learning.sums import is_sum_task
from simulation.baselines import Baseline, compare, sampled_sites
from simulation.embedded import config_for, run_embedded, with_samples
from simulation.meant import check_number, only_if_meant
from simulation.processes import WorkerProcesses
from simulation.secrecy import KeeperThreads, Secrecy, enrolled, opened_keepers
from simulation.settings import SimulationSettings
from simulation.slot import LocalSlot, Slot
from simulation.slot_process import SlotPlan, SlotProcess
from simulation.view import SimulationView

log = logging.getLogger(__name__)

_PROG = "fl-simulate"
_DESCRIPTION = "Runs a whole federation on this machine: over the embedded broker, or over a RabbitMQ."
_EXAMPLES = """\
  fl-simulate --task digits --workers 8 --rounds 20 --partition dirichlet:0.5
  fl-simulate --task my_task.py:task --workers 4 --state runs/mine      (run it again, and it goes on)
  fl-simulate --task digits --workers 1000 --rounds 5 --jobs 2
  fl-simulate --task digits --workers 4 --broker amqp://guest:guest@localhost:5672/
  fl-simulate --script train.py --workers 3 --broker amqp://guest:guest@localhost:5672/ -- --epochs 2"""


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    return exit_code_of(lambda: _command(argv), prog=_PROG)


def _command(argv: Sequence[str] | None) -> ExitCode:
    own, of_script = split_arguments(argv)
    settings = read_settings(SimulationSettings, own, prog=_PROG, description=_DESCRIPTION, examples=_EXAMPLES)
    check_has_script(settings.script, of_script)
    given, settings = settings, only_if_meant(settings, own)
    check_number(_num_processes(settings), is_meant=settings.many, ask=input if sys.stdin.isatty() else None)
    run_settings = settings.of_aggregator()
    state = run_settings.state
    view = SimulationView(f"{settings.learns}, {settings.workers:,} workers  state {state}")
    with (
        Terminal(settings, view, prog=_PROG, argv=argv, state=state, level=_level(settings)) as terminal,
        private_files(state),
        deterministic(is_wanted=settings.deterministic),
    ):
        if settings.log_level == "INFO" and not terminal.is_live:
            log.setLevel(logging.INFO)
        if given.broker and not settings.broker:
            log.info("in this process, without RabbitMQ: for that, give --over-rabbitmq")
        torch.set_num_threads(1)
        with experiment_logs(run_settings) as logs:
            simulation = Simulation(settings, run_settings, of_script, terminal, view, logs)
            summary = simulation.run()
        if summary is None:
            return ExitCode.INTERRUPTED
        if settings.baselines and "baselines" not in summary:
            summary = simulation.add_baselines(summary)
        report = write_report(state)
        view.done()
    console = Console()
    console.print(_table(summary))
    console.print(f"model  {summary['final']['model_sha256']}\nstate  {state}\nreport {report}", soft_wrap=True)
    if "noise" in summary.get("privacy", {}):
        console.print(f"spent {privacy_text(summary['privacy'])}", soft_wrap=True)
    check_result(summary)
    return ExitCode.OK


def _level(settings: SimulationSettings) -> str:
    """The log level of aggregator and workers: each logs a line an update, while ``_log_round`` logs the rounds."""
    return "WARNING" if settings.log_level == "INFO" else settings.log_level


def _log_round(event: Event) -> None:
    if isinstance(event, RoundClosed):
        row = event.row
        metrics = row["metrics"] or row["worker_metrics"]
        fields = {name: row[name] for name in ("round", "closed_by", "num_folded", "seconds", "metrics")}
        log.info(
            "round %3d ↻ %d folded, %.2f s  %s%s",
            row["round"],
            row["num_folded"],
            row["seconds"],
            metrics_text(metrics),
            privacy_text(row["privacy"]),
            extra=fields | {IS_SHOWN: True},
        )


class Simulation:
    """One simulated run and its folder."""

    def __init__(
        self,
        settings: SimulationSettings,
        run_settings: AggregatorSettings,
        of_script: Sequence[str],
        terminal: Terminal,
        view: SimulationView,
        watchers: Sequence[Watcher],
    ) -> None:
        self._settings = settings
        self._run_settings = run_settings
        self._terminal = terminal
        self._view = view
        self._on_event = fan_out(view.on_event, _log_round, *watchers)
        self._of_script = of_script
        self._task: Task = (
            load_task(settings.task, Site(partition=settings.partition, args=settings.task_args))
            if settings.script is None
            else ScriptedModel(settings.script, of_script)
        )

    @property
    def folder(self) -> Path:
        return self._run_settings.state

    def run(self) -> dict[str, Any] | None:
        """Runs to the end; returns the summary, or None if it was stopped first."""
        is_finished = self._embedded() if self._settings.broker is None else self._over_rabbitmq()
        return self._summary() if is_finished else None

    def _embedded(self) -> bool:
        broker = MemoryBroker()
        with contextlib.ExitStack() as stack:
            names = self._settings.simulated_sites.names
            secrecy = Secrecy.of(self._run_settings, names)
            slots = self._slots(stack, secrecy)
            config = config_for(with_samples(slots, names), self._run_settings)
            config = config if secrecy is None else secrecy.led(config)
            keepers = opened_keepers(secrecy, self._run_settings, broker, stack)
            made = Aggregator(config, self._task, MemoryTransport(broker), on_event=self._on_event)
            aggregator = stack.enter_context(contextlib.closing(made))

            def stop() -> None:
                aggregator.stop()
                for slot in slots:
                    slot.stop()
                for keeper in keepers:
                    keeper.stop()

            self._terminal.on_signals(stop)
            local = [slot for slot in slots if isinstance(slot, LocalSlot)]
            self._view.training = lambda: [slot.presence for slot in local]
            run_embedded(aggregator, broker, slots, keepers=keepers)
        return aggregator.is_finished

    def _slots(self, stack: contextlib.ExitStack, secrecy: Secrecy | None) -> list[Slot]:
        """One slot in this process, or one process for each job."""
        settings = self._settings
        jobs = _num_jobs(settings)
        plans = [
            SlotPlan(
                task=settings.task,
                partition=settings.partition,
                queue=self._run_settings.queue,
                inline_cap=settings.inline_cap,
                log_level=_level(settings),
                is_live=self._terminal.is_live,
                sites=settings.simulated_sites,
                task_args=settings.task_args,
                state=self.folder / "workers",
                indices=range(job, settings.workers, jobs),
                secrecy=secrecy,
                deterministic=settings.deterministic,
            )
            for job in range(jobs)
        ]
        if jobs == 1:
            return [plans[0].open()]
        return [stack.enter_context(SlotProcess(plan)) for plan in plans]

    def _over_rabbitmq(self) -> bool:
        settings, names = self._run_settings, self._settings.simulated_sites.names
        transport = connect(
            settings, role="simulation", topology=settings.topology, on_link=fan_out(self._view.on_link)
        )
        with contextlib.ExitStack() as stack:
            stack.callback(transport.close)
            secrecy = Secrecy.of(settings, names)
            config = replace(settings.config, everybody=tuple(names))
            config = config if secrecy is None else secrecy.led(config)
            status = StatusSender(transport, trust=config.membership.trust)
            on_event = fan_out(self._on_event, status.on_event)
            made = Aggregator(config, self._task, transport, on_event=on_event)
            aggregator = stack.enter_context(contextlib.closing(made))
            workers = WorkerProcesses(
                self._settings,
                self._of_script,
                queue=self._run_settings.queue,
                logs=self.folder / "workers",
                identities=enrolled(secrecy, self.folder / "keys"),
                on_failure=aggregator.stop,
            )
            keepers = KeeperThreads(
                secrecy,
                settings,
                connected=lambda topology: connect(settings, role="keeper", topology=topology),
                on_failure=aggregator.stop,
            )
            with status, keepers, workers:
                self._terminal.on_signals(aggregator.stop)
                try:
                    aggregator.start()
                    aggregator.run()
                except BrokerUnreachable:
                    if aggregator.is_running:  # it was not told to stop
                        raise
                if not aggregator.is_finished:
                    workers.terminate()
            workers.check()
            keepers.check()
            if aggregator.is_finished and self._settings.queue is None:
                _remove_queues(transport)
        return aggregator.is_finished

    def _summary(self) -> dict[str, Any]:
        loaded: dict[str, Any] = json.loads((self.folder / "summary.json").read_text(encoding="utf-8"))
        return loaded

    def add_baselines(self, summary: dict[str, Any]) -> dict[str, Any]:
        """The summary with both baselines, or with the reason why there are none, written back."""
        settings = self._settings
        if reason := _nothing_to_compare(summary, settings, self._task):
            log.info(reason)
            summary = summary | {"baselines": {"none": reason}}
            StateDirectory(self.folder).write_summary(summary)
            return summary
        with History(self.folder) as history:
            statistics = history.facts.get("statistics", {})
        baseline = Baseline(
            task=settings.task,
            partition=settings.partition,
            sites=settings.simulated_sites,
            task_args=settings.task_args,
            rounds=int(summary["final"]["round"]),
            seed=settings.seed,
            local_in=settings.local_in,
            initial=_initial_state(self._task, settings),
            statistics=statistics,
        )
        self._terminal.on_signals(_interrupt)
        num_done, total = 0, len(sampled_sites(settings.workers)) + 1
        self._view.compared(0, total, "")

        def on_step(what: str) -> None:
            nonlocal num_done
            num_done += 1
            self._view.compared(num_done, total, what)
            log.info("for comparison: %s", what)

        summary = summary | {"baselines": compare(baseline, self._task, on_step=on_step)}
        StateDirectory(self.folder).write_summary(summary)
        return summary


def _nothing_to_compare(summary: Mapping[str, Any], settings: SimulationSettings, task: Task) -> str | None:
    """Why single sites cannot be compared with the run; None if they can."""
    if is_sum_task(task):
        return "no comparison with single sites: the task is summed up, as if all samples lay in one place"
    if "evaluation" in summary:
        return "no comparison with single sites: a model was only measured"
    if not summary["final"].get("metrics"):
        return "no comparison with single sites: the task evaluates nothing at the aggregator (site.name is None)"
    if "init_sha256" in summary and not (settings.init and settings.init.is_file()):
        return "no comparison with single sites: the file that the run began with (--init) is not there any more"
    return None


def _interrupt() -> None:
    """Ends the comparison; none of it is kept."""
    raise KeyboardInterrupt


def _num_jobs(settings: SimulationSettings) -> int:
    return min(settings.jobs or _num_cores(), settings.workers)


def _num_processes(settings: SimulationSettings) -> int:
    """The number of processes that are started."""
    return settings.workers if settings.broker else _num_jobs(settings)


def _num_cores() -> int:
    """The number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _remove_queues(transport: Transport) -> None:
    """Removes the queues of a simulation that had its own, and the final model's blob: nobody else uses them."""
    body = transport.newest_head()
    blob = decode(body, ModelHead)[0].blob if body is not None else None
    transport.delete_blobs([blob.name] if blob else [])
    transport.remove()


def _initial_state(task: Task, settings: SimulationSettings) -> State:
    """The tensors that the run began with, and of those that are not shared the task's own."""
    torch.manual_seed(settings.seed)
    model = made_by(task.model)
    tensors = ModelTensors.of(model)
    state = tensors.taken_from(model)
    if settings.init is None:
        return state
    return {**state, **InitialModel(settings.init).state(tensors, tensors.shared(settings.shared.patterns))}


def _table(summary: Mapping[str, Any]) -> Table:
    """The federated result beside what each alternative reaches; or what each site measured, if that was all."""
    if "evaluation" in summary:
        return evaluation_table(summary["evaluation"])
    final = summary["final"]
    federated = Measured.of(final.get("metrics") or final.get("worker_metrics") or {}).metrics
    names = sorted(federated, key=rank)
    rounds = f"{final['round']} round{'' if final['round'] == 1 else 's'}"
    table = Table(title=f"after {rounds}, on {'central test data' if final.get('metrics') else 'sites'}")
    table.add_column("")
    for name in names:
        table.add_column(name, justify="right")

    def add(title: str, metrics: Mapping[str, float]) -> None:
        table.add_row(title, *(metric_text(metrics[name]) if name in metrics else "" for name in names))

    add("federated", federated)
    baselines = summary.get("baselines", {})
    if "single_mean" in baselines:
        add(f"one site alone (mean of {_number_of_sites(baselines)})", baselines["single_mean"])
    if "pooled" in baselines:
        add("all data in one place", baselines["pooled"])
    table.caption = baselines.get("none") or baselines.get("no_pooled")
    return table


def _number_of_sites(baselines: Mapping[str, Any]) -> str:
    num_trained, num_sites = len(baselines["single_sites"]), baselines.get("num_sites")
    return str(num_trained) if num_sites in (None, num_trained) else f"{num_trained} of {num_sites}"


if __name__ == "__main__":
    raise SystemExit(main())
