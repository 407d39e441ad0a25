"""``fl-status``: what is there now, from any machine that reaches the broker."""

import contextlib
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from rich.console import Console
from rich.live import Live

from broker import Transport, look
from broker.wire import Topology
from console import (
    BrokerFault,
    BrokerUnreachable,
    ExitCode,
    LinkChanged,
    QueueMissing,
    configure_logging,
    exit_code_of,
    read_settings,
)
from identities import Membership, onlooker
from operations.settings import StatusSettings
from operations.snapshot import Condition, Snapshot, take_snapshot
from operations.status_view import plain, shown

_PROG = "fl-status"
_DESCRIPTION = "Shows a snapshot of run, round, workers and what waits on the queues. It changes nothing."
_EXAMPLES = """\
  FEDMQ_BROKER=amqps://user:secret@broker:5671/ fl-status --queue updates
  fl-status --watch                       the same again each second, until the run is over
  fl-status --json                        one JSON object, for scripts; with --watch, one a line
What it shows of the run comes from its aggregator, and is at most a few seconds old while that runs.
Exit code 4: no broker, no queue, or no aggregator (gone, or never there)"""

_EVERY_S = 1.0


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    return exit_code_of(lambda: _command(argv), prog=_PROG)


def _command(argv: Sequence[str] | None) -> ExitCode:
    settings = read_settings(StatusSettings, argv, prog=_PROG, description=_DESCRIPTION, examples=_EXAMPLES)
    level = settings.log_level if settings.log_level != "INFO" else "WARNING"
    configure_logging("ERROR" if settings.watch else level, log_format=settings.log_format)
    console = Console(highlight=False, markup=False, emoji=False)
    link = _LinkState()
    with contextlib.closing(look(settings, role="status", on_link=link.on_link)) as transport:
        snapshots = _snapshots(transport, Topology(settings.queue), onlooker(settings), link, watch=settings.watch)
        if settings.is_json:
            snapshot = _print_all(snapshots, _as_json)
        elif console.is_terminal:
            snapshot = _show_all(snapshots, console, watch=settings.watch)
        else:
            snapshot = _print_all(snapshots, plain, between="\n")
    return ExitCode.UNREACHABLE if _lacks_aggregator(snapshot) else ExitCode.OK


def _lacks_aggregator(snapshot: Snapshot) -> bool:
    """Whether there is an unfinished run, or none, and nobody who leads."""
    is_stopped = snapshot.condition is Condition.STOPPED and not snapshot.is_led
    return is_stopped or snapshot.condition in (Condition.GONE, Condition.UNHEARD)


class _LinkState:
    """Whether the connection is lost: calls then wait until it is restored."""

    problem: str | None = None

    def on_link(self, change: LinkChanged) -> None:
        self.problem = change.problem


def _snapshots(
    transport: Transport, topology: Topology, member: Membership, link: _LinkState, *, watch: bool
) -> Iterator[Snapshot]:
    """One snapshot, or one each second until the run is over; while the broker is away, the last one again."""

    def look() -> Snapshot:
        found = take_snapshot(transport, topology, member.trust)
        return replace(found, protection=member.protection, keepers=_keepers_of(member))

    snapshot = look()
    yield snapshot
    while watch and not snapshot.is_over:
        time.sleep(_EVERY_S)
        try:
            snapshot = replace(snapshot, problem=link.problem) if link.problem else look()
        except (BrokerUnreachable, BrokerFault, QueueMissing) as error:
            snapshot = replace(snapshot, problem=str(error))
        yield snapshot


def _keepers_of(member: Membership) -> tuple[tuple[str, str], ...]:
    """(name, fingerprint) of those on the roster; people compare them with what the keepers' operators read to them."""
    members = () if member.rosters is None else member.rosters.current().members()
    return tuple((each.name, each.fingerprint) for each in members if each.role == "keeper")


def _print_all(snapshots: Iterator[Snapshot], text_of: Callable[[Snapshot], str], *, between: str = "") -> Snapshot:
    """Prints one after the other, as long as somebody reads them; returns the last."""
    snapshot = next(snapshots)
    try:
        print(text_of(snapshot), flush=True)
        for snapshot in snapshots:
            print(between + text_of(snapshot), flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is left in the buffer goes there
    return snapshot


def _show_all(snapshots: Iterator[Snapshot], console: Console, *, watch: bool) -> Snapshot:
    """Shows each in place of the one before; returns the last."""
    snapshot = next(snapshots)
    if not watch:
        console.print(shown(snapshot))
        return snapshot
    with Live(shown(snapshot), console=console, auto_refresh=False) as live:
        for snapshot in snapshots:
            live.update(shown(snapshot), refresh=True)
    return snapshot


def _as_json(snapshot: Snapshot) -> str:
    fields: dict[str, Any] = {
        "at": snapshot.at,
        "state": snapshot.condition,
        "is_led": snapshot.is_led,
        "is_quiet": snapshot.is_quiet,
        "age_s": snapshot.age_s,
        "deadline_in_s": snapshot.deadline_in_s,
        "num_waiting": snapshot.num_waiting,
        "num_readers": {name: queued.num_readers for name, queued in snapshot.queued.items() if queued.fault is None},
        "faults": {name: queued.fault for name, queued in snapshot.queued.items() if queued.fault is not None},
        "num_dead": snapshot.num_dead,
        "signed_by": None if snapshot.signer is None else str(snapshot.signer),
        "protection": snapshot.protection,
        "keepers": dict(snapshot.keepers),
        "problem": snapshot.problem,
        "status": None if snapshot.status is None else snapshot.status.model_dump(mode="json"),
    }
    return json.dumps(fields)


if __name__ == "__main__":
    raise SystemExit(main())
