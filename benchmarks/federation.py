"""fedmq under a workload: one aggregator, a process for each worker, a broker, all as a user would start them."""

import sqlite3
from collections.abc import Mapping
from contextlib import closing
from dataclasses import replace
from pathlib import Path

from benchmarks.figures import FEDMQ, MB, Row
from benchmarks.members import AGGREGATOR, enrolled
from benchmarks.monitor import Monitor
from benchmarks.place import ROOT, Place, wait_for
from benchmarks.workload import Opened, Workload, row_of

TASK = f"{ROOT / 'benchmarks' / 'large_model.py'}:task"
QUEUE = "bench"
KEEPER = "keeper"
IDLE_BYTES = 40_000


COMPILED = f"{FEDMQ} --compiled-fold"
SEALED = f"{FEDMQ} --roster, signed and sealed"


def measure(
    workload: Workload, place: Place, *, is_compiled: bool = False, is_sealed: bool = False, ring: str | None = None
) -> Row:
    """Seconds from one round to the next, from the ledger, and what all processes used meanwhile.

    With ``ring``, updates are masked in it, and there is a keeper.
    """
    with place.room("fedmq") as room, room.broker() as broker, room.commands() as commands:
        settings = {"FEDMQ_BROKER": broker.url, "MODEL_BYTES": str(workload.num_bytes)}
        settings["MODEL_TENSORS"] = str(workload.num_tensors)
        common = ("--queue", QUEUE, "--task", TASK)
        state = room.folder / "state"
        rounds = ("--rounds", str(workload.rounds_to_run), "--quorum", str(workload.num_workers))
        own = ("--state", str(state), *(["--compiled-fold"] if is_compiled else []))
        own += ("--privacy", "secure", "--ring", ring, "--weighting", "uniform") if ring else ()
        names = [f"worker-{index}" for index in range(workload.num_workers)]
        keepers = [KEEPER] if ring else []
        has_roster = is_sealed or ring is not None
        keys = enrolled(room.folder / "keys", names, keepers=keepers) if has_roster else {}
        as_aggregator = settings | keys.get(AGGREGATOR, {})
        aggregator = commands.product("fl-aggregator", *common, *rounds, *own, name="aggregator", **as_aggregator)
        workers = [
            commands.product("fl-worker", *common, "--name", name, name=name, **settings | keys.get(name, {}))
            for name in names
        ]
        opening = [
            commands.product(
                "fl-keeper",
                *("--queue", QUEUE, "--state", str(room.folder / name)),
                name=name,
                **settings | keys.get(name, {}),
            )
            for name in keepers
        ]
        roles = {
            "aggregator": [aggregator.pid],
            "worker": [worker.pid for worker in workers],
            "keeper": [keeper.pid for keeper in opening],
            "broker": [broker.pid],
        }
        with Monitor(roles) as monitor:
            is_done = (state / "summary.json").exists
            wait_for(is_done, while_running=[aggregator, *opening], timeout_s=workload.timeout_s)
        opened = Opened(opened_at(state))
    usage = monitor.usage(
        opened.since,
        opened.until,
        num_rounds=len(opened.seconds),
        num_processes={"worker": workload.num_workers},
    )
    system = COMPILED if is_compiled else SEALED if is_sealed else f"{FEDMQ} --ring {ring}" if ring else FEDMQ
    return row_of(workload, system, opened.seconds, usage)


def idle_mb(place: Place) -> Mapping[str, float]:
    """The memory that a process of each role needs with almost no model: its peak in rounds of 40 KB."""
    return measure(Workload("idle", IDLE_BYTES, num_rounds=1, num_workers=1), place).usage.peak_mb


def with_multiples(row: Row, workload: Workload, idle: Mapping[str, float]) -> Row:
    """The row with a note: each role's memory above idle, in multiples of the model."""
    multiples = [
        f"{role} {(row.usage.peak_mb[role] - idle[role]) * MB / workload.num_bytes:.2f} ×"
        for role in ("aggregator", "worker")
        if role in row.usage.peak_mb
    ]
    return replace(row, note=f"{', '.join(multiples)} the model over idle") if multiples else row


def opened_at(state: Path) -> list[float]:
    """When each round was opened, as Unix times."""
    with closing(sqlite3.connect(f"file:{state}/ledger.sqlite?mode=ro", uri=True)) as ledger:
        return [at for (at,) in ledger.execute("SELECT opened_at FROM rounds ORDER BY round")]
