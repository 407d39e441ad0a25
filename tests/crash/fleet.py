"""One federation of forked processes: an aggregator, its workers, and what came of them.

with Fleet(folder, url=node.url, queue=queue, names=("anna", "ben"), rounds=3) as fleet:
    fleet.start("aggregator")
    ...
    assert fleet.folded_once() == []
"""

import json
import signal
import sqlite3
import time
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from contextlib import closing, suppress
from pathlib import Path
from types import TracebackType
from typing import Any

import pika
import psutil
from rabbitmq_node import wait_until
from zygote import Forked, zygote

TASK = f"{Path(__file__).with_name('tiny_task.py')}:Tiny"
AGGREGATOR = "aggregator"
STANDBY = "standby"
PARTIAL = "partial-"
PART_BYTES = 192
BLOB = ("--inline-cap", "0")
COMMIT_AT_ONCE = ("--commit-every-s", "0.000001")


class Fleet:
    """Members are known by name: `aggregator`, and those of the workers. One that has ended can be started again.

    A round ends with ``quorum`` updates, by default one of each worker. ``urls`` gives a member another way to the
    broker than ``url``. ``flags`` are for all. With ``num_shards`` there are the members `partial-0`, and so on.
    ``toys`` are those of toys.py that the aggregator has, with spaces between. ``without``: the (worker, round) of
    which a worker has no update, and says so.
    """

    def __init__(
        self,
        folder: Path,
        *,
        url: str,
        queue: str,
        names: Sequence[str],
        rounds: int,
        quorum: int | None = None,
        flags: Sequence[str] = (),
        aggregator_flags: Sequence[str] = (),
        worker_flags: Sequence[str] = (),
        urls: Mapping[str, str] | None = None,
        paces: Mapping[str, float] | None = None,
        num_shards: int = 0,
        toys: str = "",
        task: str = TASK,
        without: Collection[tuple[str, int]] = (),
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.queue, self.names, self.rounds = folder, queue, tuple(names), rounds
        self.state = folder / "state"
        self.members: dict[str, Forked] = {}
        self._url, self._urls, self._paces = url, dict(urls or {}), dict(paces or {})
        self._flags = ("--queue", queue, "--task", task, "--connect-timeout-s", "60", *flags)
        self._of_workers = tuple(worker_flags)
        ends = ("--rounds", str(rounds), "--quorum", str(quorum or len(names)), "--deadline-s", "none")
        self._of_partial = ("--part-bytes", str(PART_BYTES))
        self._of_aggregator = (*ends, *self._of_partial, "--shards", str(num_shards), *aggregator_flags)
        self._num_shards = num_shards
        self._toys, self._without = toys, without
        self._partials = tuple(f"{PARTIAL}{shard}" for shard in range(num_shards))

    def __enter__(self) -> "Fleet":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for member in self.members.values():
            member.kill()

    @property
    def everybody(self) -> tuple[str, ...]:
        return (AGGREGATOR, *self._partials, *self.names)

    def start(
        self,
        name: str,
        trigger: Mapping[str, Any] | None = None,
        *,
        constants: Mapping[str, Any] | None = None,
        log: str = "",
    ) -> Forked:
        """Starts a member, or the same command again; with ``trigger``, it will die at that point (see `armed`)."""
        if name == AGGREGATOR:
            program = "crash.toy_aggregator" if self._toys else "aggregator.cli"
            own = ("--state", str(self.state), *self._of_aggregator)
        elif name in self._partials:
            shard = f"{name.removeprefix(PARTIAL)}/{self._num_shards}"
            program, own = "aggregator.cli", ("--role", "partial", "--shard", shard, *self._of_partial)
        else:
            program, own = "worker.cli", ("--name", name, *self._of_workers)
        url, pace_s = self._urls.get(name, self._url), self._paces.get(name, 0.0)
        env = {"FEDMQ_BROKER": url, "PACE": str(pace_s), "TOYS": self._toys}
        arguments = (program, [*own, *self._flags], dict(trigger) if trigger else None, dict(constants or {}))
        path = self.folder / f"{log or name}.log"
        self.members[name] = zygote().start("crash.armed:run", *arguments, log=path, env=env)
        return self.members[name]

    def stand_by(self) -> Forked:
        """Starts the aggregator's command a second time; returns once it waits for the first."""
        leader = self.members[AGGREGATOR]
        self.start(AGGREGATOR, log=STANDBY)
        self.members |= {AGGREGATOR: leader, STANDBY: self.members[AGGREGATOR]}
        standby = self.members[STANDBY]
        assert wait_until(lambda: "standing by" in standby.said, timeout_s=60.0), standby.said
        return standby

    def show_stack(self, name: str) -> None:
        """Has a member that hangs write where it is into its log."""
        member = self.members[name]
        member.signal(signal.SIGUSR1)
        time.sleep(1.0)
        with member.log.open("a") as log, suppress(psutil.NoSuchProcess):
            process = psutil.Process(member.pid)
            log.write(f"process {member.pid} is {process.status()}, with {process.num_threads()} threads\n")

    # -- what came of it ------------------------------------------------------------------------------------

    @property
    def final_sha256(self) -> str | None:
        """The digest of the final model, once there is a summary."""
        summary = self._summary
        return None if summary is None else str(summary["final"]["model_sha256"])

    @property
    def best(self) -> Any:
        """The best round and its metric, once there is a summary."""
        summary = self._summary
        return None if summary is None else summary["best"]

    @property
    def _summary(self) -> dict[str, Any] | None:
        try:
            loaded: dict[str, Any] = json.loads((self.state / "summary.json").read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        return loaded

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        """What the ledger answers; [] as long as there is none."""
        with suppress(sqlite3.OperationalError):
            path = f"file:{self.state}/ledger.sqlite?mode=ro"
            with closing(sqlite3.connect(path, uri=True, timeout=10)) as ledger:
                return ledger.execute(query).fetchall()
        return []

    def num_opened_rounds(self) -> int:
        rows = self.rows("SELECT max(round) FROM rounds")
        return int(rows[0][0] or 0) if rows else 0

    def miscounted(self) -> dict[tuple[int, str], int]:
        """(round, worker) -> how often it counts, of those that do not count just once: in the mean, or as diverged."""
        found = self._counted("folded")
        diverged = {(number, name) for name, number in self._without}
        wanted = {(number, name) for number in range(1, self.rounds + 1) for name in self.names} - diverged
        said = self._counted("diverged")
        wrong = {key: said[key] for key in sorted(diverged | set(said)) if said[key] != 1 or key not in diverged}
        return wrong | {key: found[key] for key in sorted(wanted | set(found)) if found[key] != 1 or key not in wanted}

    def _counted(self, verdict: str) -> Counter[tuple[int, str]]:
        return Counter(self.rows(f"SELECT base_round, worker FROM updates WHERE verdict = '{verdict}'"))

    def num_verdicts(self) -> dict[str, int]:
        return dict(self.rows("SELECT verdict, count(*) FROM updates GROUP BY verdict"))

    def logs(self, *, num_lines: int = 25) -> str:
        """The end of what everybody said."""
        parts = []
        for path in sorted(self.folder.glob("*.log")):
            lines = path.read_text(errors="replace").splitlines()
            parts += [f"--- {path.name}", *lines[-num_lines:]]
        return "\n".join(parts)

    def delete_queues(self) -> list[str]:
        """Removes what the federation has on the broker; returns which updates and blobs were left there.

        A finished run leaves its final model for late readers, in a blob if it is large: that is meant.
        """
        left = []
        run_ids = self.rows("SELECT value FROM run WHERE key = 'run_id'")
        run_id = json.loads(run_ids[0][0]) if run_ids else ""
        blobs = [
            *(f"{self.queue}.blob.model.{run_id}.{number}" for number in range(1, self.rounds + 1)),
            *(
                f"{self.queue}.blob.update.{name}.{run_id}.{number}"
                for name in self.names
                for number in range(1, self.rounds + 1)
            ),
            *(
                f"{self.queue}.blob.partial.{shard}.{run_id}.{number}.{sequence}"
                for shard in range(self._num_shards)
                for number in range(1, self.rounds + 1)
                for sequence in range(3)
            ),
        ]
        shards = [f"{self.queue}.shard.{shard}" for shard in range(self._num_shards)]
        with closing(pika.BlockingConnection(pika.URLParameters(self._url))) as connection:
            left += [name for name in blobs if _count(connection, name) is not None]
            for name in (self.queue, *shards):
                num_updates = _count(connection, name)
                left += [f"{num_updates} messages in {name}"] if num_updates else []
            num_dead = _count(connection, f"{self.queue}.dead")
            left += [f"{num_dead} messages in {self.queue}.dead"] if num_dead else []
            channel = connection.channel()
            final = f"{self.queue}.blob.model.{run_id}.{self.rounds + 1}"
            own = (f"{self.queue}.{name}" for name in ("models", "dead", "commands"))
            for name in (self.queue, *own, final):
                channel.queue_delete(name)
            for name in (*blobs, *shards):
                channel.queue_delete(name)
            for name in (f"{self.queue}.in", f"{self.queue}.dlx"):
                channel.exchange_delete(name)
        return left


def _count(connection: pika.BlockingConnection, queue: str) -> int | None:
    """How many messages are in a queue; None if there is no such queue."""
    channel = connection.channel()
    try:
        return int(channel.queue_declare(queue, passive=True).method.message_count)
    except pika.exceptions.ChannelClosedByBroker:
        return None
    finally:
        if channel.is_open:
            channel.close()
