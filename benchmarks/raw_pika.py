"""pika alone, moving the same bytes in the same parts: what a pipeline on it can reach.

The limits are those of one publisher, then of one consumer. The yardstick runs the processes of a federation at once:
one that publishes the model and reads all updates, and the workers; raw_process.py says what each does. For a small
model, where only waiting counts, durable_round.py is the yardstick.
"""

import time
from collections.abc import Mapping
from typing import Any

import pika

from benchmarks import durable_round
from benchmarks.figures import MB, Row, Spread
from benchmarks.machine import WORKLOAD as LIMITS
from benchmarks.monitor import Monitor
from benchmarks.place import Broker, Command, Commands, Failed, Place, wait_for
from benchmarks.raw_process import MODELS, RAISED_BYTES, RELEASED_BYTES, stream_arguments, updates_of
from benchmarks.workload import Opened, Workload, row_of

_LIMIT_BYTES = 100 * MB
_LIMIT_REPEATS = 1 + 5
"""The first does not count."""
_LIMIT_TIMEOUT_S = 120.0
_QUORUM_QUEUE_SETTLES_S = 1.0
DURABLE_ROUND = "bare durable round"
SIZES = {RELEASED_BYTES: "raw pika", RAISED_BYTES: "raw pika, receive size 128 KiB"}


def limit_rows(place: Place) -> list[Row]:
    """MB/s of one publisher, and of one consumer with either receive size."""
    rows = []
    with place.room("raw") as room, room.broker() as broker, room.commands() as commands:
        for role, receive_bytes in (
            ("publish", RELEASED_BYTES),
            ("consume", RELEASED_BYTES),
            ("consume", RAISED_BYTES),
        ):
            command = _start(
                commands, broker, role, num_bytes=_LIMIT_BYTES, num_rounds=_LIMIT_REPEATS, size=receive_bytes
            )
            seconds = _numbers(command, num=_LIMIT_REPEATS, timeout_s=_LIMIT_TIMEOUT_S)
            speeds = [_LIMIT_BYTES / MB / one for one in seconds[1:]]
            system = SIZES[receive_bytes].replace("raw pika", f"raw pika {role}")
            rows.append(Row(workload=LIMITS, system=system, unit="MB/s", value=Spread.of(speeds), is_more_better=True))
    return rows


def measure(workload: Workload, place: Place, *, receive_bytes: int) -> Row:
    """Seconds a round for the same bytes with the same processes at once, and what they used."""
    streams = (MODELS, *(updates_of(index) for index in range(workload.num_workers)))
    with place.room("raw") as room, room.broker() as broker, room.commands() as commands:
        _declare(broker, {name: stream_arguments(workload.num_bytes) for name in streams})
        size = {"num_bytes": workload.num_bytes, "num_rounds": workload.rounds_to_run, "size": receive_bytes}
        workers = [_start(commands, broker, "worker", index=index, **size) for index in range(workload.num_workers)]
        aggregator = _start(commands, broker, "aggregator", num_workers=workload.num_workers, **size)
        return _watched(workload, SIZES[receive_bytes], broker, aggregator, workers)


def measure_durable_round(workload: Workload, place: Place) -> Row:
    """The same for a bare round in which every step is durable."""
    with place.room("bare") as room, room.broker() as broker, room.commands() as commands:
        _declare(broker, durable_round.QUEUES)
        time.sleep(_QUORUM_QUEUE_SETTLES_S)
        flags = ["--url", broker.url, "--folder", str(room.folder), "--workers", str(workload.num_workers)]
        flags += ["--bytes", str(workload.num_bytes), "--rounds", str(workload.rounds_to_run)]
        aggregator, *workers = [
            commands.script("benchmarks.durable_round", role, *flags, name=f"bare-{role}")
            for role in ("aggregator", *["worker"] * workload.num_workers)
        ]
        return _watched(workload, DURABLE_ROUND, broker, aggregator, workers)


def _watched(workload: Workload, system: str, broker: Broker, aggregator: Command, workers: list[Command]) -> Row:
    roles = {"aggregator": [aggregator.pid], "worker": [worker.pid for worker in workers], "broker": [broker.pid]}
    with Monitor(roles) as monitor:
        opened = Opened(_numbers(aggregator, num=workload.rounds_to_run, timeout_s=workload.timeout_s))
    usage = monitor.usage(
        opened.since,
        opened.until,
        num_rounds=len(opened.seconds),
        num_processes={"worker": workload.num_workers},
    )
    return row_of(workload, system, opened.seconds, usage)


def _declare(broker: Broker, queues: Mapping[str, dict[str, Any]]) -> None:
    with pika.BlockingConnection(pika.URLParameters(broker.url)) as connection:
        for name, arguments in queues.items():
            connection.channel().queue_declare(name, durable=True, arguments=arguments)


def _start(
    commands: Commands,
    broker: Broker,
    role: str,
    *,
    num_bytes: int,
    num_rounds: int,
    size: int,
    num_workers: int = 0,
    index: int = 0,
) -> Command:
    numbers = {
        "bytes": num_bytes,
        "rounds": num_rounds,
        "receive-bytes": size,
        "workers": num_workers,
        "index": index,
    }
    flags = [part for flag, number in numbers.items() for part in (f"--{flag}", str(number))]
    return commands.script("benchmarks.raw_process", role, "--url", broker.url, *flags, name=f"raw-{role}-{index}")


def _numbers(command: Command, *, num: int, timeout_s: float) -> list[float]:
    """The numbers it printed, once it has ended."""
    wait_for(lambda: not command.is_running, while_running=[], timeout_s=timeout_s)
    try:
        numbers = [float(line) for line in command.said.splitlines()]
    except ValueError:
        numbers = []
    if len(numbers) != num:
        raise Failed(f"a process of raw pika ended early: {command.tail}")
    return numbers
