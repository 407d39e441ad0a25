"""Real workers with real connections to a RabbitMQ: what each costs the broker while they train, and while they wait.

Workers are the product's, each with its own connection and its own signs of life; they share a few processes, since one
with torch takes 200 MB, and the workers of a process train in turns. The node has socket buffers of 32 KiB, as
docs/scale.md advises for many connections.
"""

import multiprocessing
import os
import re
import resource
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import psutil
import torch
from pydantic import SecretStr
from rabbitmq_node import RabbitNode

from benchmarks.place import MANY_CONNECTIONS
from broker.connecting import connect
from broker.settings import BrokerSettings
from broker.wire.topology import Topology
from console.heartbeat import Heartbeat
from learning import load_task
from simulation.sites import SimulatedSites
from worker.config import WorkerConfig
from worker.service import Worker

_QUEUE = "many"
_NUM_PROCESSES = 4
_MB = 2**20
_POLL_S = 0.05
_EVERY_S = 0.25
_IDLE_S = 20.0
_FIELDS = {name: re.compile(rf"\b{name}:(\d+)") for name in ("bytes_sent", "bytes_received")}


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """The broker, as seen from outside at one moment."""

    mb: float
    cpu_s: float
    num_connections: int
    num_bytes: int
    """Through the sockets that are open now, in both directions."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Crowd:
    """What so many workers cost the broker. All but ``idle_cpu`` is of the rounds, the first included."""

    base_mb: float
    """Before the first worker."""
    peak_mb: float
    idle_mb: float
    """Once all wait for another run."""
    num_connections: int
    """While they wait; the aggregator's are not among them."""
    cpu_s: float
    idle_cpu: float
    """Seconds a second."""
    num_bytes: int
    workers_mb: float

    def per_worker_mb(self, num_workers: int) -> float:
        """What the broker takes for each beyond what it takes alone, at its peak."""
        return (self.peak_mb - self.base_mb) / num_workers


@dataclass
class _Watch:
    """Looks at a node now and then, from a thread of its own."""

    node: RabbitNode
    peak_mb: float = 0.0
    num_bytes: int = 0
    is_over: threading.Event = field(default_factory=threading.Event)

    def look(self) -> Node:
        process = psutil.Process(self.node.pid)
        times = process.cpu_times()
        text = subprocess.run(
            ["ss", "-tinHO", "state", "established", "sport", "=", f":{self.node.port}"],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        num_bytes = sum(int(number) for pattern in _FIELDS.values() for number in pattern.findall(text))
        return Node(
            mb=process.memory_info().rss / _MB,
            cpu_s=times.user + times.system,
            num_connections=len(text.splitlines()),
            num_bytes=num_bytes,
        )

    def run(self) -> None:
        while not self.is_over.wait(_EVERY_S):
            seen = self.look()
            self.peak_mb, self.num_bytes = max(self.peak_mb, seen.mb), max(self.num_bytes, seen.num_bytes)


@contextmanager
def _watched(node: RabbitNode) -> Iterator[_Watch]:
    watch = _Watch(node)
    thread = threading.Thread(target=watch.run, name="watch of the broker", daemon=True)
    thread.start()
    try:
        yield watch
    finally:
        watch.is_over.set()
        thread.join()


class Aggregating:
    """``fl-aggregator`` in a process of its own."""

    def __init__(self, node: RabbitNode, folder: Path, *flags: str) -> None:
        self._log = folder / "aggregator.log"
        with self._log.open("wb") as sink:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "aggregator.cli", *flags, "--queue", _QUEUE, "--state", str(folder / "state")],
                stdout=sink,
                stderr=subprocess.STDOUT,
                env=os.environ | {"OMP_NUM_THREADS": "1", "FEDMQ_BROKER": node.url},
            )

    def wait_for(self, words: str) -> None:
        """Until it has logged this; RuntimeError if it ends before."""
        while words not in self._log.read_text(errors="replace"):
            if self._process.poll() is not None:
                raise RuntimeError(f"the aggregator has ended: {self._log.read_text(errors='replace')[-2000:]}")
            time.sleep(_EVERY_S)

    def peak_mb(self) -> float:
        """Waits for its end. RuntimeError unless that is a good one."""
        _, status, usage = os.wait4(self._process.pid, 0)
        self._process.returncode = os.waitstatus_to_exitcode(status)
        if self._process.returncode:
            raise RuntimeError(f"it ended with {self._process.returncode}: {self._log.read_text()[-2000:]}")
        return usage.ru_maxrss / 1024

    def end(self) -> None:
        if self._process.returncode is None:
            self._process.kill()
            self._process.wait()


def measured(task: str, num_workers: int, num_rounds: int, folder: Path) -> tuple[Crowd, float]:
    """A run with a quorum of all, below ``folder``; returns what the broker saw, and the aggregator's peak in MB."""
    flags = ("--task", task, "--rounds", str(num_rounds), "--quorum", str(num_workers))
    with RabbitNode(folder / "node", extra_config=MANY_CONNECTIONS) as node, ExitStack() as stack:
        aggregator = Aggregating(node, folder, *flags)
        stack.callback(aggregator.end)
        aggregator.wait_for(", state in ")
        watch = stack.enter_context(_watched(node))
        before = watch.look()
        ends = stack.enter_context(_working(node.url, task, num_workers))
        aggregator_mb = aggregator.peak_mb()
        after = watch.look()
        time.sleep(_IDLE_S)
        idle = watch.look()
        for end in ends:
            end.send_bytes(b"leave")
        workers_mb = max(float(end.recv_bytes()) for end in ends)
    crowd = Crowd(
        base_mb=before.mb,
        peak_mb=watch.peak_mb,
        idle_mb=idle.mb,
        num_connections=idle.num_connections,
        cpu_s=after.cpu_s - before.cpu_s,
        idle_cpu=(idle.cpu_s - after.cpu_s) / _IDLE_S,
        num_bytes=watch.num_bytes,
        workers_mb=workers_mb,
    )
    return crowd, aggregator_mb


@contextmanager
def _working(url: str, task: str, num_workers: int) -> Iterator[list[Connection]]:
    """Workers in a few processes. Each process is told to leave, and then says what memory it took, in MB."""
    context = multiprocessing.get_context("spawn")
    num_processes = min(_NUM_PROCESSES, num_workers)
    processes, ends = [], []
    for first in range(num_processes):
        ours, theirs = context.Pipe()
        indices = range(first, num_workers, num_processes)
        process = context.Process(target=_work, args=(theirs, url, task, indices, num_workers), daemon=True)
        process.start()
        theirs.close()
        processes.append(process)
        ends.append(ours)
    try:
        yield ends
    finally:
        for process in processes:
            process.join(60)
            process.kill()


def _work(told: Connection, url: str, task: str, indices: Sequence[int], num_workers: int) -> None:
    """One process: its workers take turns on one model until they are told to leave."""
    torch.set_num_threads(1)
    settings = BrokerSettings(broker=SecretStr(url), queue=_QUEUE, connect_timeout_s=120)
    sites = SimulatedSites.numbered(num_workers)
    tasks = {index: load_task(task, sites.site(index, "iid")) for index in indices}
    model = tasks[indices[0]].model()
    with ExitStack() as stack:
        workers = [
            _joined(stack, settings, sites.names[index], at_site, model=model) for index, at_site in tasks.items()
        ]
        while not told.poll():
            stepped = [worker.step(0.0) for worker in workers]  # all of them
            if not any(stepped):
                time.sleep(_POLL_S)
        for worker in workers:
            worker.stop()
            worker.run()  # says that it leaves, and closes its connection
    told.send_bytes(f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}".encode())


def _joined(stack: ExitStack, settings: BrokerSettings, name: str, task: Any, *, model: torch.nn.Module) -> Worker:
    transport = connect(settings, role=f"worker {name}")
    stack.callback(transport.close)
    config = WorkerConfig(name=name, topology=Topology(_QUEUE), inline_cap=settings.inline_cap, stays=True)
    worker = Worker(config, task, transport, model=model, announce_soon=lambda: heartbeat.soon())
    heartbeat = Heartbeat(
        worker.announce, every_s=lambda: worker.presence_every_s, spread_s=lambda: worker.presence_spread_s
    )
    worker.start()
    stack.enter_context(heartbeat)
    return worker
