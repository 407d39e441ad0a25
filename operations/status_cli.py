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

from broker import Transport, connect
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
from operations.look import Condition, Look, take_look
from operations.settings import StatusSettings
from operations.status_view import plain, shown

_PROG = "fl-status"
_DESCRIPTION = "Says what is there now: run, round, workers, what waits on the queues. It changes nothing."
_EXAMPLES = """\
  fl-status --queue updates --broker amqp://user:secret@broker:5672/
  fl-status --watch                       the same, again each second, until the run is over
  fl-status --json                        one JSON object, for scripts; with --watch, one a line
what is said of the run is from its aggregator, at most some seconds old while it runs.
exit code 4: no broker, no queue, or no aggregator (gone, or never there)"""

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
    with contextlib.closing(connect(settings, role="status", on_link=link.note)) as transport:
        looks = _looks(transport, Topology(settings.queue), link, watch=settings.watch)
        if settings.is_json:
            look = _print_all(looks, _as_json)
        elif console.is_terminal:
            look = _show_all(looks, console, watch=settings.watch)
        else:
            look = _print_all(looks, plain, between="\n")
    return ExitCode.UNREACHABLE if look.condition in (Condition.GONE, Condition.UNHEARD) else ExitCode.OK


class _LinkState:
    """Whether the connection is lost: what is asked of it then waits until it is there again."""

    problem: str | None = None

    def note(self, change: LinkChanged) -> None:
        self.problem = change.problem


def _looks(transport: Transport, topology: Topology, link: _LinkState, *, watch: bool) -> Iterator[Look]:
    """One, or one each second until the run is over; what was seen last, while the broker is away."""
    look = take_look(transport, topology)
    yield look
    while watch and not look.is_over:
        time.sleep(_EVERY_S)
        try:
            look = replace(look, problem=link.problem) if link.problem else take_look(transport, topology)
        except (BrokerUnreachable, BrokerFault, QueueMissing) as error:
            look = replace(look, problem=str(error))
        yield look


def _print_all(looks: Iterator[Look], text_of: Callable[[Look], str], *, between: str = "") -> Look:
    """Prints one after the other, as long as somebody reads it; returns the last."""
    look = next(looks)
    try:
        print(text_of(look), flush=True)
        for look in looks:
            print(between + text_of(look), flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is left in the buffer goes there
    return look


def _show_all(looks: Iterator[Look], console: Console, *, watch: bool) -> Look:
    """Shows each in place of the one before; returns the last."""
    look = next(looks)
    if not watch:
        console.print(shown(look))
        return look
    with Live(shown(look), console=console, auto_refresh=False) as live:
        for look in looks:
            live.update(shown(look), refresh=True)
    return look


def _as_json(look: Look) -> str:
    fields: dict[str, Any] = {
        "at": look.at,
        "state": look.condition,
        "is_led": look.is_led,
        "is_quiet": look.is_quiet,
        "age_s": look.age_s,
        "deadline_in_s": look.deadline_in_s,
        "num_waiting": look.num_waiting,
        "num_readers": {name: queued.num_readers for name, queued in look.queued.items()},
        "num_dead": look.num_dead,
        "problem": look.problem,
        "status": None if look.status is None else look.status.model_dump(mode="json"),
    }
    return json.dumps(fields)


if __name__ == "__main__":
    raise SystemExit(main())
