"""The commands as processes of their own, for tests that look at a running federation from outside.

    federation.aggregator("--rounds", "3")
    worker = federation.worker("worker-0")
    worker.says("round   1 →")
    assert worker.ends() == 0

Whatever was started ends with the `with` block, and with the test run, however that ends.
"""

import json
import signal
import sqlite3
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any

import pika
from pika.adapters.blocking_connection import BlockingChannel
from pydantic import SecretStr
from rabbitmq_node import wait_until
from zygote import our_environment, zygote

from broker.connecting import connect
from broker.rabbitmq.queues import exchanges, queues
from broker.settings import BrokerSettings
from broker.transport import Source, Transport
from broker.wire.codec import decode
from broker.wire.messages import ModelHead
from broker.wire.topology import Topology

ROOT = Path(__file__).parent.parent
GATED = Path(__file__).parent / "e2e" / "tasks" / "gated.py"
ATTENTIVE, DEAF, LOADING = f"{GATED}:Attentive", f"{GATED}:Deaf", f"{GATED}:Loading"

MAX_SHARDS = 4
"""Of a federation with partial aggregators."""

KEEPERS = ("ethics",)
"""Of a federation whose updates are masked."""

SOON_S = 240.0
"""Far longer than anything takes, on a busy machine too; what does not happen until then does not happen."""


def environment(**settings: str) -> dict[str, str]:
    """The environment of a command: ours, the sources, and these settings."""
    return our_environment() | {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1", "OMP_NUM_THREADS": "1"} | settings


def run_command(
    module: str, *flags: str, folder: Path, env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Runs a command to its end, in ``folder``; at most SOON_S."""
    with tempfile.TemporaryDirectory() as said:
        out, err = Path(said) / "out", Path(said) / "err"
        process = zygote().start(
            "zygote:run_program", module, flags, log=out, errors=err, env=environment(**(env or {})), folder=folder
        )
        status = process.wait(SOON_S)
        process.kill_group()
        assert status is not None, f"{module} goes on after {SOON_S:g} s:\n{out.read_text()}{err.read_text()}"
        return subprocess.CompletedProcess([module, *flags], status, out.read_text(), err.read_text())


def ledger_rows(state: Path, query: str, *values: object) -> list[tuple[Any, ...]]:
    """What a ledger answers while its aggregator may be writing; [] as long as there is none."""
    try:
        with closing(sqlite3.connect(f"file:{state}/ledger.sqlite?mode=ro", uri=True)) as ledger:
            return ledger.execute(query, values).fetchall()
    except sqlite3.OperationalError:
        return []


class Command:
    """One started process, of a module or a ``.py`` file, and all that it said."""

    def __init__(self, module: str, flags: tuple[str, ...], *, folder: Path, env: Mapping[str, str], log: Path) -> None:
        self.log = log
        self._process = zygote().start("zygote:run_program", module, flags, log=log, env=env, folder=folder)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def is_running(self) -> bool:
        return self._process.is_running

    @property
    def said(self) -> str:
        return self.log.read_text(errors="replace")

    @property
    def tail(self) -> str:
        return "\n".join(self.said.splitlines()[-40:])

    def says(self, text: str, *, times: int = 1) -> None:
        """Returns when it has said this so often; fails when it ends without, or does not."""
        wait_until(lambda: self.said.count(text) >= times or not self.is_running, timeout_s=SOON_S)
        assert self.said.count(text) >= times, f"{self.log.name} never said {text!r}, but:\n{self.tail}"

    def ends(self, *, timeout_s: float = SOON_S) -> int:
        """Its exit code; fails when it does not end by itself."""
        status = self._process.wait(timeout_s)
        if status is None:
            raise AssertionError(f"{self.log.name} goes on after {timeout_s:g} s:\n{self.tail}")
        return status

    def terminate(self) -> None:
        """SIGTERM."""
        self._process.signal(signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL; returns when it is gone."""
        self._process.kill()

    def end(self) -> None:
        """Leaves nothing of it running, nor of what it started."""
        self._process.kill_group()


class Gates:
    """Holds the trainings of tasks/gated.py, one by one."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()

    def hold(self, worker: str, round_number: int) -> None:
        """This training will not end before it is released."""
        (self.folder / f"hold.{worker}.{round_number}").touch()

    def release(self, worker: str, round_number: int) -> None:
        (self.folder / f"hold.{worker}.{round_number}").unlink()

    def num_begun(self, worker: str, round_number: int) -> int:
        """How many processes have begun this training."""
        return len(list(self.folder.glob(f"began.{worker}.{round_number}.*")))

    def wait_for(self, worker: str, round_number: int, *, num_processes: int = 1) -> None:
        """Returns when so many processes train this."""
        begun = wait_until(lambda: self.num_begun(worker, round_number) >= num_processes, timeout_s=SOON_S)
        assert begun, f"{worker} did not begin to train for round {round_number}"


class Federation:
    """One queue on one broker, one state directory, and the processes around them; inside a ``with``."""

    def __init__(self, folder: Path, *, broker: str, queue: str) -> None:
        self.folder, self.broker, self.queue = folder, broker, queue
        self.state = folder / "state"
        self.gates = Gates(folder / "gates")
        self.topology = Topology(queue)
        self._commands: list[Command] = []
        self._guard: subprocess.Popen[bytes]

    def __enter__(self) -> "Federation":
        # It reads our pids, and kills these process groups when our end of the pipe closes before we end the guard.
        self._guard = subprocess.Popen(
            ["/bin/sh", "-c", 'while read -r pid; do groups="$groups -$pid"; done; kill -9 $groups'],
            stdin=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for command in self._commands:
            command.end()
        self._guard.kill()
        self._guard.communicate()
        with suppress(pika.exceptions.AMQPError):
            self.delete_queues(self.queue)

    # -- commands -------------------------------------------------------------------------------------------

    def aggregator(self, *flags: str, task: str = ATTENTIVE, state: Path | None = None) -> Command:
        """Starts an aggregator, or goes on with the one that had the same state directory."""
        own = ("--queue", self.queue, "--task", task, "--state", str(state or self.state))
        return self._start("aggregator.cli", (*own, *flags), "aggregator")

    def statistics(self, *flags: str, task: str, state: Path) -> Command:
        """Starts fl-statistics, or goes on with the one that had the same state directory."""
        own = ("--queue", self.queue, "--task", task, "--state", str(state))
        return self._start("simulation.statistics.cli", (*own, *flags), "statistics")

    def partial(self, index: int, num_shards: int, *flags: str) -> Command:
        """Starts the partial aggregator of a shard."""
        own = ("--role", "partial", "--shard", f"{index}/{num_shards}", "--queue", self.queue)
        return self._start("aggregator.cli", (*own, *flags), f"partial-{index}")

    def worker(self, name: str, *flags: str, task: str = ATTENTIVE) -> Command:
        own = ("--queue", self.queue, "--task", task, "--name", name)
        return self._start("worker.cli", (*own, *flags), name)

    def keeper(self, *flags: str) -> Command:
        """Starts a keeper, or goes on with the one that had the same state directory."""
        return self._start("keeper.cli", ("--queue", self.queue, *flags), "keeper")

    def page(self, *flags: str) -> Command:
        """``fl-dashboard`` of its runs."""
        return self._start("dashboard.cli", ("--state", str(self.state), *flags), "page")

    def script_aggregator(self, script: Path, *flags: str, arguments: tuple[str, ...] = ()) -> Command:
        """Starts an aggregator for the model of a script with these arguments."""
        own = ("--queue", self.queue, "--script", str(script), "--state", str(self.state))
        return self._start("aggregator.cli", (*own, *flags, "--", *arguments), "aggregator")

    def script_worker(self, name: str, script: Path, *arguments: str) -> Command:
        """``fl-worker --script``."""
        own = ("--queue", self.queue, "--script", str(script), "--name", name)
        return self._start("worker.cli", (*own, "--", *arguments), name)

    def script(self, name: str, script: Path, *arguments: str) -> Command:
        """The script by itself, as a worker of this name."""
        return self._start(str(script), arguments, name, FEDMQ_QUEUE=self.queue, FEDMQ_NAME=name)

    def simulation(self, *flags: str) -> Command:
        """Starts a simulation over the broker, or, with ``--broker none``, without it."""
        return self._start("simulation.cli", ("--broker", self.broker, *flags), "simulation")

    def _start(self, module: str, flags: tuple[str, ...], label: str, **settings: str) -> Command:
        log = self.folder / f"{len(self._commands)}-{label}.log"
        env = environment(FEDMQ_BROKER=self.broker, GATES=str(self.gates.folder), **settings)
        command = Command(module, flags, folder=self.folder, env=env, log=log)
        self._commands.append(command)
        assert self._guard.stdin is not None
        self._guard.stdin.write(f"{command.pid}\n".encode())
        self._guard.stdin.flush()
        return command

    # -- what came of it ------------------------------------------------------------------------------------

    @property
    def summary(self) -> dict[str, Any]:
        loaded: dict[str, Any] = json.loads((self.state / "summary.json").read_text(encoding="utf-8"))
        return loaded

    def rows(self, query: str, *values: object) -> list[tuple[Any, ...]]:
        return ledger_rows(self.state, query, *values)

    def verdicts(self, worker: str, base_round: int) -> list[str]:
        """What became of this worker's updates that were trained from this round's model."""
        query = "SELECT verdict FROM updates WHERE worker = ? AND base_round = ? ORDER BY id"
        return [verdict for (verdict,) in self.rows(query, worker, base_round)]

    def folded(self) -> list[tuple[int, str]]:
        """(round, worker) of all updates in the mean, one entry for each time that it was folded."""
        return self.rows("SELECT round, worker FROM updates WHERE verdict = 'folded' ORDER BY round, worker")

    def wait_for_verdict(self, verdict: str, worker: str, base_round: int) -> None:
        came = wait_until(lambda: verdict in self.verdicts(worker, base_round), timeout_s=SOON_S)
        assert came, f"no update of {worker} for round {base_round} is {verdict}: {self.verdicts(worker, base_round)}"

    # -- the broker, as an outsider -------------------------------------------------------------------------

    @contextmanager
    def transport(self) -> Iterator[Transport]:
        """A participant of the test's own."""
        with closing(connect(BrokerSettings(broker=SecretStr(self.broker), queue=self.queue), role="test")) as own:
            yield own

    def wait_for_head(self, round_number: int) -> ModelHead:
        """The head of the model that this round begins with, as soon as it is on the stream."""
        with self.transport() as transport:
            transport.listen(Source.MODELS)
            while (delivery := transport.receive(SOON_S)) is not None:
                head, _ = decode(delivery.body, ModelHead)
                if head.round == round_number and not head.is_finished:
                    return head
        raise AssertionError(f"no model for round {round_number} on the stream")

    @contextmanager
    def channel(self) -> Iterator[BlockingChannel]:
        """A confirming channel of the test's own."""
        with pika.BlockingConnection(pika.URLParameters(self.broker)) as connection:
            channel = connection.channel()
            channel.confirm_delivery()
            yield channel

    def delete_queues(self, queue: str) -> None:
        topology = Topology(queue, num_shards=MAX_SHARDS, keepers=KEEPERS)
        with self.channel() as channel:
            for name in queues(topology):
                channel.queue_delete(name)
            for name in exchanges(topology):
                channel.exchange_delete(name)
