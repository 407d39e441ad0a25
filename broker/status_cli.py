"""``fl-status``: what is there now, from any machine that reaches the broker."""

import contextlib
import json
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any

from pydantic import Field
from rich.box import SIMPLE_HEAD
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from broker.command import configure_logging, exit_code_of
from broker.errors import ExitCode
from broker.look import Look, take_look
from broker.messages import Status
from broker.rabbitmq import RabbitMQ
from broker.settings import BrokerSettings, read_settings
from broker.topology import Topology

_PROG = "fl-status"
_DESCRIPTION = "Says what is there now: run, round, workers, what waits on the queues. It changes nothing."
_EXAMPLES = """\
  fl-status --queue updates --broker amqp://user:secret@broker:5672/
  fl-status --watch                       the same, again each second, until the run is over
  fl-status --json                        one JSON object, for scripts
what is said of the run is from its aggregator, a second old at most while it runs."""


class StatusSettings(BrokerSettings):
    """One call of the command."""

    is_json: bool = Field(False, alias="json", description="print one JSON object")
    watch: bool = Field(False, description="print it anew each second, until the run is over")


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    return exit_code_of(lambda: _command(argv), prog=_PROG)


def _command(argv: Sequence[str] | None) -> ExitCode:
    settings = read_settings(StatusSettings, argv, prog=_PROG, description=_DESCRIPTION, examples=_EXAMPLES)
    level = settings.log_level if settings.log_level != "INFO" else "WARNING"
    configure_logging(level, log_format=settings.log_format)
    topology = Topology(settings.queue)
    console = Console(highlight=False)
    with contextlib.closing(RabbitMQ(settings, role="status")) as transport:
        transport.check()
        look = take_look(transport, topology)
        if settings.is_json:
            print(json.dumps(_as_json(look)))
        elif settings.watch and console.is_terminal:
            _watch(transport, topology, look, console)
        else:
            console.print(shown(look))
            for later in _later(transport, topology, look) if settings.watch else ():
                console.print(shown(later))
    return ExitCode.OK


def _watch(transport: RabbitMQ, topology: Topology, look: Look, console: Console) -> None:
    with Live(shown(look), console=console, auto_refresh=False) as live:
        for later in _later(transport, topology, look):
            live.update(shown(later), refresh=True)


def _later(transport: RabbitMQ, topology: Topology, look: Look) -> Iterator[Look]:
    while not look.is_over:
        time.sleep(1.0)
        look = take_look(transport, topology)
        yield look


def _as_json(look: Look) -> dict[str, Any]:
    status = None if look.status is None else look.status.model_dump(mode="json")
    return {"at": look.at, "status": status, "is_quiet": look.is_quiet, "num_waiting": look.num_waiting}


# -- for people ---------------------------------------------------------------------------------------------


def shown(look: Look) -> RenderableType:
    """The look as a person reads it. What comes from the wire is text, and no markup."""
    status = look.status
    if status is None:
        return Group(Text("no aggregator has said anything here since the broker started"), _queues(look))
    parts: list[RenderableType] = [_facts(status, look), _queues(look)]
    if status.workers:
        parts.append(_workers(status, look.at))
    if status.num_more_workers:
        parts.append(Text(f"and {status.num_more_workers} more workers"))
    return Group(*parts)


def _facts(status: Status, look: Look) -> Table:
    facts = _grid()
    facts.add_row("run", f"{status.run} ({status.run_id})")
    facts.add_row("round", f"{status.round} of {status.num_rounds}, {_state(status, look)}")
    if status.state == "running":
        facts.add_row("updates", f"{status.num_folded} of {status.target} folded{_deadline(status, look.at)}")
    facts.add_row("workers", f"{status.num_present} present")
    return facts


def _state(status: Status, look: Look) -> str:
    said = _ago(look.at - status.sent_at)
    if look.is_quiet:
        return f"but its aggregator said nothing since {said}: it may be gone"
    if status.state == "stopped":
        return f"stopped {said}; its command goes on from there"
    return status.state if status.state == "running" else f"{status.state} {said}"


def _deadline(status: Status, at: float) -> str:
    return "" if status.deadline_at is None else f", deadline in {max(0.0, status.deadline_at - at):.0f} s"


def _queues(look: Look) -> Table:
    queues = _grid()
    for name, number in look.num_waiting.items():
        hint = "; fl-dead list" if name == look.dead and number else ""
        queues.add_row("queue", f"{name}: {number} waiting{hint}")
    return queues


def _grid() -> Table:
    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(width=8, style="dim")
    grid.add_column(overflow="fold")
    return grid


def _workers(status: Status, at: float) -> Table:
    table = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for name in ("worker", "state"):
        table.add_column(name)
    for name in ("round", "progress", "last seen"):
        table.add_column(name, justify="right")
    table.add_column("answered")
    for worker in status.workers:
        progress = f"{worker.progress:.0%}" if worker.state == "training" else ""
        seen = _ago(at - worker.seen_at)
        table.add_row(
            worker.name, worker.state, str(worker.round), progress, seen, "yes" if worker.has_answered else ""
        )
    return table


def _ago(seconds: float) -> str:
    if seconds < 90:
        return f"{max(0.0, seconds):.0f} s ago"
    return f"{seconds / 60:.0f} min ago" if seconds < 5400 else f"{seconds / 3600:.0f} h ago"


if __name__ == "__main__":
    sys.exit(main())
