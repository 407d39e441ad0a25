"""A snapshot as a person reads it: in colours and as wide as the terminal is, or as plain lines.

What comes off the wire is shown as text, never taken for markup.
"""

from collections.abc import Iterator

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from broker.wire import WorkerStatus
from console import printable, some_of
from operations.snapshot import Condition, Snapshot

_MOST_NAMED = 8
_COLUMNS = ("worker", "state", "round", "progress", "last seen", "answered")
_NUMBERS = ("round", "progress", "last seen")
_STYLES = {Condition.GONE: "bold red", Condition.UNHEARD: "bold red", Condition.RUNNING: "green"}


def shown(snapshot: Snapshot) -> RenderableType:
    """For a terminal."""
    facts = Table.grid(padding=(0, 2, 0, 0))
    facts.add_column(style="dim")
    facts.add_column(overflow="fold")
    for name, value in _facts(snapshot):
        facts.add_row(name, Text(value, _STYLES.get(snapshot.condition, "") if name == "state" else ""))
    parts: list[RenderableType] = [facts]
    rows = _rows(snapshot)
    if rows:
        parts.append(_table(rows))
    parts.extend(Text(line) for line in _more(snapshot))
    return Group(*parts)


def plain(snapshot: Snapshot) -> str:
    """For a file or another program: nothing is cut off, whatever the width, and no line ends in blanks."""
    facts = list(_facts(snapshot))
    width = max(len(name) for name, _ in facts)
    lines = [f"{name:<{width}}  {value}" for name, value in facts]
    rows = _rows(snapshot)
    if rows:
        widths = [max(map(len, column)) for column in zip(_COLUMNS, *rows, strict=True)]
        lines.append("")
        lines.extend(
            "  ".join(
                f"{word:>{width}}" if name in _NUMBERS else f"{word:<{width}}"
                for name, word, width in zip(_COLUMNS, row, widths, strict=True)
            )
            for row in (_COLUMNS, *rows)
        )
    return "\n".join(line.rstrip() for line in (*lines, *_more(snapshot)))


def summary(snapshot: Snapshot) -> str:
    """How the run stands, on one line."""
    facts = dict(_facts(snapshot))
    return ", ".join(f"{name} {facts[name]}" for name in ("run", "round", "state", "updates") if name in facts)


# -- what is said -------------------------------------------------------------------------------------------


def _facts(snapshot: Snapshot) -> Iterator[tuple[str, str]]:
    status = snapshot.status
    if snapshot.problem is not None:
        yield "broker", f"{printable(snapshot.problem)}; this is what was there before"
    if status is not None:
        yield "run", f"{status.run} ({status.run_id})"
        yield "round", f"{status.round} of {status.num_rounds}"
    yield "state", _state(snapshot)
    if status is not None and snapshot.condition in (Condition.RUNNING, Condition.GONE):
        yield "updates", f"{status.num_folded} of {status.target} folded{_deadline(snapshot)}"
        num_objecting = sum(worker.objection is not None for worker in status.workers)
        yield (
            "workers",
            f"{status.num_present} present"
            + ("" if status.num_chosen is None else f", {status.num_chosen} of them chosen for this round")
            + (f", {num_objecting} of them not answering" if num_objecting else ""),
        )
    if snapshot.signer is not None:
        yield "roster", f"status signed by {snapshot.signer}; updates are {' and '.join(snapshot.protection)}"
    if snapshot.keepers:
        yield "keepers", some_of([f"{name} {fingerprint}" for name, fingerprint in snapshot.keepers], _MOST_NAMED)
    yield from _queues(snapshot)


def _state(snapshot: Snapshot) -> str:
    said = "" if snapshot.age_s is None else _ago(snapshot.age_s)
    match snapshot.condition:
        case Condition.UNHEARD | Condition.GONE if snapshot.fault is not None:
            heard = f"the last one reported {said}" if said else "none has reported"
            return f"unknown, as the broker fails at the results queue and cannot say who reads it; {heard}"
        case Condition.UNHEARD:
            return "no aggregator leads here, and none has reported since the broker started"
        case Condition.STARTING:
            return "an aggregator leads; it has not reported yet"
        case Condition.RUNNING if snapshot.is_quiet:
            return f"running, but its aggregator last reported {said}: the broker accepts nothing, or the clocks differ"
        case Condition.RUNNING if snapshot.status is not None and snapshot.status.is_paused:
            return "paused: the open round stays open until fl-run resume"
        case Condition.RUNNING:
            return "running"
        case Condition.GONE:
            return f"no aggregator leads: the last one is gone, it reported {said}; its command goes on from there"
        case Condition.STOPPED if snapshot.is_led:
            return f"stopped {said}; an aggregator leads again"
        case Condition.STOPPED:
            return f"stopped {said}; its command goes on from there"
        case Condition.FINISHED:
            return f"finished {said}"


def _deadline(snapshot: Snapshot) -> str:
    return "" if snapshot.deadline_in_s is None else f", deadline in {snapshot.deadline_in_s:.0f} s"


def _queues(snapshot: Snapshot) -> Iterator[tuple[str, str]]:
    topology, status = snapshot.topology, snapshot.status
    for name in topology.update_queues:
        queued = snapshot.queued.get(name)
        if queued is None:
            yield "queue", f"{name}: there is none, or this user may not see it"
            continue
        if queued.fault is not None:
            yield "queue", f"{name}: {printable(queued.fault)}"
            continue
        is_shard = name != topology.updates
        alone = is_shard and not queued.num_readers and status is not None and status.state == "running"
        yield "queue", f"{name}: {queued.num_waiting} waiting" + ("; no partial aggregator takes them" if alone else "")
    if topology.dead in snapshot.queued:
        hint = f"; see fl-dead list --queue {topology.queue}" if snapshot.num_dead else ""
        yield "dead", f"{topology.dead}: {snapshot.num_dead} set aside{hint}"


def _rows(snapshot: Snapshot) -> list[tuple[str, ...]]:
    return [
        (
            worker.name,
            _state_of(worker, snapshot),
            str(worker.round),
            f"{worker.progress:.0%}" if worker.state == "training" and not snapshot.is_over else "",
            _ago(max(0.0, snapshot.at_there - worker.seen_at)),
            "yes" if worker.has_answered else "" if worker.no_update is None else "no update",
        )
        for worker in (snapshot.status.workers if snapshot.status else ())
    ]


def _state_of(worker: WorkerStatus, snapshot: Snapshot) -> str:
    """A worker leaves when its run is over, and nobody takes its last sign of life any more."""
    if snapshot.is_over:
        return "left"
    return worker.state if worker.objection is None else "objects"


def _more(snapshot: Snapshot) -> Iterator[str]:
    """What does not fit into the table: the rest of the workers, and why some do not answer."""
    status = snapshot.status
    if status is None:
        return
    if status.num_more_workers:
        yield f"and {status.num_more_workers} more workers"
    for worker in status.workers:
        if worker.objection is not None:
            yield f"{printable(worker.name)} does not answer: {printable(worker.objection)}"
        if worker.no_update is not None:
            yield f"{printable(worker.name)} has no update: {printable(worker.no_update)}"
    outvoted = [f"{printable(each.name)} {each.num_outvoted}×" for each in status.workers if each.num_outvoted]
    if outvoted:
        yield f"outvoted by a robust rule: {some_of(outvoted, _MOST_NAMED)}"


def _table(rows: list[tuple[str, ...]]) -> Table:
    table = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for name in _COLUMNS:
        is_name = name == _COLUMNS[0]
        table.add_column(
            name,
            justify="right" if name in _NUMBERS else "left",
            overflow="fold" if is_name else "ellipsis",
            no_wrap=not is_name,
        )
    for row in rows:
        table.add_row(*map(Text, row))
    return table


def _ago(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s ago"
    return f"{seconds / 60:.0f} min ago" if seconds < 5400 else f"{seconds / 3600:.0f} h ago"
