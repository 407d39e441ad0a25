"""A whole federation of real members on an embedded broker, in turns; each can be killed or taken for dead at any call.

Members take turns: workers in some order, and after each of them, or after all, those who aggregate, until nothing
comes any more. Time passes only when nobody has anything to do.
"""

import random
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from matrix.algorithms import Algorithm
from matrix.faults import BEFORE, FROZEN, TARGETS, Fault, Faults, Killed
from matrix.keeping import ROLE as KEEPER
from matrix.keeping import KeptService, kept_by, with_partials
from matrix.learner import Learner
from matrix.line import Line
from matrix.outcome import Outcome, outcome_of

from aggregator.partial import PartialAggregator
from aggregator.service import Aggregator
from aggregator.settings import AggregatorSettings
from broker.memory import MemoryBroker, MemoryTransport
from console.errors import LeadershipLost, StateError
from simulation.embedded import config_for
from simulation.secrecy import Secrecy, membership_in
from worker.config import WorkerConfig
from worker.service import Worker
from worker.state.carried import OnDisk

NUM_ROUNDS = 3
AT_ONCE_S = 1e-15
"""``commit_every_s`` that is over when it begins: added to the clock's time, it changes nothing."""
FLUSH_S = 0.25
MOST_PAUSES = 40
"""Times in a row that nobody has anything to do, until the federation is found to be stuck."""
PART_BYTES = 64


@dataclass(frozen=True, slots=True)
class Way:
    """How a federation goes about the same work."""

    order: int = 0
    """Seed of the workers' turns; 0: by name."""
    is_lazy: bool = False
    """Whether updates are looked at, and committed, only once all workers had a turn."""
    copies: int = 1
    """Times that each update is sent."""
    num_shards: int = 0
    compression: str = "none"
    in_blobs: bool = False
    """Whether models and updates travel in blobs, of several parts."""
    fault: Fault | None = None


_SETTINGS: dict[tuple[str, Way], AggregatorSettings] = {}
"""Of (algorithm, way), since there are thousands of runs."""


def _settings(algorithm: Algorithm, way: Way) -> AggregatorSettings:
    """A pydantic ValidationError if they do not go together."""
    key = algorithm.name, replace(way, fault=None)
    if key not in _SETTINGS:
        fields = {"task": "mine", "rounds": NUM_ROUNDS, "deadline_s": None, "keep_every": 1, "lr": 0.1}
        fields |= {"commit_every_s": 1e9 if way.is_lazy else AT_ONCE_S, "part_bytes": PART_BYTES}
        fields |= {"inline_cap": 0 if way.in_blobs else 2**20, "compression": way.compression}
        fields |= {"shards": way.num_shards} | dict(algorithm.settings)
        _SETTINGS[key] = AggregatorSettings.model_validate(fields)
    return _SETTINGS[key]


@dataclass
class Member:
    """One process: a service, and its line to the broker."""

    role: str
    service: Any
    line: Line


@dataclass
class Federation:
    """``run`` it to its end, in a new folder. A pydantic ValidationError if way and algorithm do not go together."""

    folder: Path
    algorithm: Algorithm
    way: Way
    broker: MemoryBroker = field(default_factory=MemoryBroker)
    now: float = 1000.0
    problems: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.faults = Faults(self.way.fault)
        self.faults.happens = self._freeze if self.way.fault and self.way.fault.what == FROZEN else self._kill
        self.state = self.folder / "state"
        self.names = [f"site-{index}" for index in range(self.algorithm.num_workers)]
        self.settings = _settings(self.algorithm, self.way).model_copy(update={"state": self.state})
        self.secrecy = self._secrecy()
        self.is_moot = False
        """Whether the fault fell where nothing can come between."""
        self._random = random.Random(self.way.order)
        self._acting: list[tuple[str, Member]] = []
        self._members: dict[str, Member] = {}

    # -- members --------------------------------------------------------------------------------------------

    def _secrecy(self) -> Secrecy | None:
        """Who is who, if updates are masked; their secret lies where no kill takes it along."""
        if not self.settings.is_secure:
            return None
        secrecy = Secrecy.of(self.settings.model_copy(update={"state": self.folder}), self.names)
        return None if secrecy is None else with_partials(secrecy, self._partials)

    def _start(self, name: str) -> None:
        """Starts a member, again if it is killed meanwhile, as a supervisor does."""
        make = {"aggregator": self._aggregator, "partial": self._partial, KEEPER: self._keeper}.get(
            name.partition("-")[0], self._worker
        )
        while True:
            member = make(name)
            self._members[name] = member
            if self._let(name, member.service.start):
                return

    def _aggregator(self, name: str) -> Member:
        line = Line(self.broker)
        config = config_for(self.names, self.settings)
        config = config if self.secrecy is None else self.secrecy.led(config)
        service = Aggregator(config, Learner(None), line, clock=lambda: self.now)  # type: ignore[arg-type]
        return Member("aggregator", service, line)

    def _partial(self, name: str) -> Member:
        shard = int(name.partition("-")[2])
        own = {"role": "partial", "shard": f"{shard}/{self.way.num_shards}", "flush_s": FLUSH_S}
        shared = {each: getattr(self.settings, each) for each in ("run", "queue", "inline_cap", "part_bytes")}
        line = Line(self.broker, shard=shard)
        config = AggregatorSettings.model_validate(own | shared).partial_config
        config = replace(config, membership=membership_in(self.secrecy, name))
        service = PartialAggregator(config, line, clock=lambda: self.now)  # type: ignore[arg-type]
        return Member("partial", service, line)

    def _worker(self, name: str) -> Member:
        line = Line(self.broker, copies=self.way.copies)
        membership = membership_in(self.secrecy, name)
        config = WorkerConfig(name=name, topology=self.settings.topology, inline_cap=2**20, membership=membership)
        carried = OnDisk(self.folder / "workers", name)
        service = Worker(config, Learner(name), line, carried=carried, clock=lambda: self.now)  # type: ignore[arg-type]
        return Member("worker", service, line)

    def _keeper(self, name: str) -> Member:
        assert self.secrecy is not None
        service = KeptService(name, self.settings, self.secrecy, self.broker)
        return Member(KEEPER, service, service.line)

    # -- what happens to them -------------------------------------------------------------------------------

    def _let(self, name: str, act: Callable[[], object]) -> bool:
        """Has a member do something; False if it was killed in it and is to be started again."""
        member = self._members[name]
        self._acting.append((name, member))
        try:
            with self.faults.acting(member.role):
                act()
        except Killed:
            self._bury(name, member)
            return False
        except StateError:
            if member.line.lost is None or member.service._course.has_begun:
                raise
            self._bury(name, member, is_frozen=True)  # in its start, where it has no epoch to know that it lost it by
        except LeadershipLost:
            self._bury(name, member, is_frozen=True)
            return member.line.lost is not None  # or another one claimed the ledger, which cannot lead: it leads again
        finally:
            self._acting.pop()
        return True

    def _kill(self) -> None:
        name, member = self._acting[-1]
        kept = self._kept_by(name)
        if kept is not None and kept.exists():
            shutil.copytree(kept, _as_killed(kept))
        member.line.cut(Killed())
        raise Killed

    def _bury(self, name: str, member: Member, *, is_frozen: bool = False) -> None:
        """Frees what a dead member holds in this process; the disk is as it was when it died."""
        if member.role in ("aggregator", KEEPER):
            member.service.close()
        kept = self._kept_by(name)
        if kept is not None and not is_frozen and _as_killed(kept).exists():
            shutil.rmtree(kept)
            _as_killed(kept).rename(kept)

    def _kept_by(self, name: str) -> Path | None:
        """The directory of a member; None if it keeps nothing."""
        if name.startswith("partial"):
            return None
        if name.startswith(KEEPER):
            return kept_by(self.folder, name)
        return self.state if name == "aggregator" else self.folder / "workers" / name

    def _freeze(self) -> None:
        """The broker takes the aggregator for dead; a standby leads for some rounds, and only then it goes on."""
        member = self._members["aggregator"]
        if _is_locked(self.state / "ledger.sqlite"):
            self.is_moot = True  # a standby waits for the end of the transaction
            return
        member.line.cut(LeadershipLost("the connection was lost"))
        self._start("aggregator")
        num_heads = self.broker.num_heads
        if all(each in self._members for each in self._everybody):
            self._go_on(lambda: self.broker.num_heads > num_heads + 1)
        fault = self.way.fault
        if fault is not None and fault.when == BEFORE and fault.target.startswith("broker."):
            member.line.check()  # what it was about to ask for never comes to the broker

    # -- turns ----------------------------------------------------------------------------------------------

    def run(self) -> Outcome:
        """What came of it. An error of a member, and being stuck, are among its problems."""
        targets = (self.way.fault.target,) if self.way.fault else ()
        return self._run(targets)

    def counted(self) -> tuple[Outcome, dict[tuple[str, str], int]]:
        """The same, with the number of calls by each role of the functions at which it may be killed."""
        outcome = self._run(tuple({target for targets in TARGETS.values() for target in targets}))
        return outcome, dict(self.faults.calls)

    def _run(self, targets: tuple[str, ...]) -> Outcome:
        try:
            with self.faults.armed(targets):
                MemoryTransport(self.broker).declare()  # or a partial aggregator would wait for that
                for name in self._everybody:
                    self._start(name)
                self._go_on(lambda: False)
        except Exception as error:  # whatever it is, it is told with its cell
            self.problems.append(f"{type(error).__name__}: {error}")
        finally:
            for member in self._members.values():
                if member.role != "worker":
                    member.service.close()
        if self.way.fault is not None and not self.faults.has_happened:
            self.problems.append("the call at which it is disturbed never came")
        is_frozen = self.way.fault is not None and self.way.fault.what == FROZEN
        return outcome_of(self.state, self.broker, self.problems, may_leave_sums=is_frozen)

    @property
    def _everybody(self) -> list[str]:
        return [*self._partials, "aggregator", *self._keepers, *self.names]

    @property
    def _partials(self) -> list[str]:
        return [f"partial-{shard}" for shard in range(self.way.num_shards)]

    @property
    def _keepers(self) -> tuple[str, ...]:
        return () if self.secrecy is None else self.secrecy.keepers

    def _go_on(self, is_enough: Callable[[], bool]) -> None:
        num_pauses = 0
        while not (self._is_over() or is_enough()):
            if sum(self._turn(name) for name in self._turns()):
                num_pauses = 0
                continue
            num_pauses += 1
            if num_pauses > MOST_PAUSES:
                raise TimeoutError("nobody has anything to do, and the run is not over")
            self.now += FLUSH_S

    def _is_over(self) -> bool:
        ends = [*self._partials, "aggregator", *self.names]
        return all(name in self._members and self._members[name].service.is_finished for name in ends)

    def _turns(self) -> Iterator[str]:
        names = self.names if self.way.order == 0 else self._random.sample(self.names, len(self.names))
        everybody = (*self._partials, "aggregator", *self._keepers)
        for name in names:
            yield name
            if not self.way.is_lazy:
                yield from everybody
        yield from everybody

    def _turn(self, name: str) -> bool:
        """Lets a member do all that there is to do; whether there was anything."""
        has_acted = False
        while name in self._members and not self._members[name].service.is_finished:
            happened: list[bool] = []
            if not self._let(name, lambda: self._step(name, happened)):  # noqa: B023
                self._start(name)
            elif not any(happened):
                break
            has_acted = True
        return has_acted

    def _step(self, name: str, happened: list[bool]) -> None:
        happened.append(self._members[name].service.step(0))


def _as_killed(kept: Path) -> Path:
    return kept.with_name(f"{kept.name}.killed")


def _is_locked(ledger: Path) -> bool:
    """Whether somebody is in the middle of a transaction."""
    if not ledger.exists():
        return False
    with closing(sqlite3.connect(ledger, timeout=0, isolation_level=None)) as database:
        try:
            database.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError:
            return True
        database.execute("ROLLBACK")
        return False
