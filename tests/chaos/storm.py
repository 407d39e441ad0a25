"""A federation in a storm: kills, pauses, cut connections and repeated messages, all drawn from a seed.

    python -m chaos.storm --seeds 20              seeds 1 to 20, a line each
    python -m chaos.storm --seed 7 --rounds 20    one of them
    python -m chaos.storm --cluster --seeds 20    over three nodes, of which any may be killed

Blows come round by round, so that a run always goes on between them; where in a round they fall is up to the seed and
to the machine. A seed repeats the schedule to the blow, not the instruction that each blow meets.
"""

import argparse
import itertools
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from chaos.echo import Echo
from chaos.tcp_proxy import Proxy
from crash.fleet import AGGREGATOR, BLOB, Fleet
from rabbitmq_cluster import RabbitCluster
from rabbitmq_node import RabbitNode, wait_until

NAMES = ("anna", "ben", "carl")
HEARTBEAT_S = 2
LONGER_THAN_THE_HEARTBEAT_S = 5.0
BEST_WAIT_S = 90.0
"""A round that takes longer than this, whatever hit it, is a failure."""
SETTLED_S = 2.0
"""How old the queues must be before the broker is killed: RabbitMQ 3.10 loses younger ones."""

KILL, KILL_BROKER, PAUSE, CUT, HANG, SLOW, HALF_OPEN = "kill", "broker", "pause", "cut", "hang", "slow", "half-open"
WEIGHTS = {KILL: 10, KILL_BROKER: 2, PAUSE: 2, CUT: 4, HANG: 2, SLOW: 2, HALF_OPEN: 2}
COMMIT_EVERY_S = ("0.000001", "0.2", "30")


@dataclass(frozen=True, slots=True)
class Blow:
    """Something that happens to somebody, so long after the one before or after a round was opened."""

    kind: str
    whom: str
    after_s: float
    seconds: float = 0.0


def blows(seed: int) -> Iterator[list[Blow]]:
    """For each round, in order, what happens in it."""
    draw = random.Random(f"blows {seed}")
    while True:
        num_blows = draw.choice((0, 1, 1, 2, 3))
        kinds = draw.choices(list(WEIGHTS), list(WEIGHTS.values()), k=num_blows)
        yield [_blow(draw, kind) for kind in kinds]


def _blow(draw: random.Random, kind: str) -> Blow:
    whom = draw.choice((AGGREGATOR, AGGREGATOR, *NAMES))
    seconds = {
        KILL_BROKER: draw.uniform(0.0, 1.0),
        PAUSE: LONGER_THAN_THE_HEARTBEAT_S,
        HANG: draw.choice((1.0, LONGER_THAN_THE_HEARTBEAT_S)),
        SLOW: draw.uniform(1.0, 3.0),
    }.get(kind, 0.0)
    return Blow(kind, "" if kind == KILL_BROKER else whom, draw.uniform(0.0, 0.4), seconds)


@dataclass(slots=True)
class Result:
    """What came of one storm."""

    seed: int
    size: str
    num_rounds: int
    blows: Counter[str] = field(default_factory=Counter)
    num_echoes: int = 0
    num_lost: int = 0
    num_doubled: int = 0
    sha256: str | None = None
    is_equal: bool = False
    seconds: float = 0.0
    problems: list[str] = field(default_factory=list)
    logs: str = ""

    @property
    def is_ok(self) -> bool:
        return self.is_equal and not (self.num_lost or self.num_doubled or self.problems)

    def line(self) -> str:
        counts = "  ".join(f"{self.blows[kind]:>{len(kind)}}" for kind in (*WEIGHTS,))
        digest = "equal" if self.is_equal else "DIFFERENT"
        return (
            f"{self.seed:>4}  {self.size:5}  {self.num_rounds:>6}  {counts}  {self.num_echoes:>6}"
            f"  {self.num_lost:>4}  {self.num_doubled:>7}  {digest:>6}  {self.seconds:>4.0f} s"
        )

    def __str__(self) -> str:
        again = f"python -m chaos.storm --seed {self.seed} --rounds {self.num_rounds}"
        return "\n".join(
            [f"seed {self.seed} failed; again with: {again}", TITLE, self.line(), *self.problems, self.logs]
        )


TITLE = f"seed  size   rounds  {'  '.join(WEIGHTS)}  echoes  lost  doubled  digest  time"


class Storm:
    """One run under the blows of one seed."""

    def __init__(
        self,
        folder: Path,
        nodes: Sequence[RabbitNode],
        *,
        seed: int,
        num_rounds: int,
        tell: Callable[[str], None],
    ) -> None:
        draw = random.Random(f"storm {seed}")
        is_large = draw.random() < 0.5
        self.result = Result(seed, "blob" if is_large else "small", num_rounds)
        self._nodes, self._tell = nodes, tell
        self._draw_node = random.Random(f"nodes {seed}")
        self._stack = ExitStack()
        everybody = (AGGREGATOR, *NAMES)
        self._proxies = {
            name: [self._stack.enter_context(closing(Proxy(node.port))) for node in nodes] for name in everybody
        }
        queue = f"chaos-{os.getpid()}-{seed}"
        self._fleet = self._stack.enter_context(
            Fleet(
                folder,
                url=nodes[0].url,
                urls={name: ",".join(map(_url_of, proxies)) for name, proxies in self._proxies.items()},
                queue=queue,
                names=NAMES,
                rounds=num_rounds,
                flags=("--heartbeat-s", str(HEARTBEAT_S), *(BLOB if is_large else ())),
                aggregator_flags=("--commit-every-s", draw.choice(COMMIT_EVERY_S)),
                paces={name: 0.05 + 0.1 * index for index, name in enumerate(NAMES)},
            )
        )
        self._echo = Echo([node.url for node in nodes], queue, seed=seed, share=0.4, longest_delay_s=2.0)

    def run(self, *, expected: str) -> Result:
        """Goes through it to the end of the run."""
        result, fleet = self.result, self._fleet
        begun_at = time.monotonic()
        with self._stack:
            for name in fleet.everybody:
                fleet.start(name)
            with self._echo:
                self._blow_until_the_end()
            result.num_echoes = self._echo.num_repeated
            miscounted = fleet.miscounted()
            result.num_lost = sum(number == 0 for number in miscounted.values())
            result.num_doubled = sum(number > 1 for number in miscounted.values())
            result.sha256 = fleet.final_sha256
            result.is_equal = result.sha256 == expected
            result.seconds = time.monotonic() - begun_at
            result.logs = fleet.logs(num_lines=40)
        return result

    # -- the course of it -----------------------------------------------------------------------------------

    def _blow_until_the_end(self) -> None:
        schedule = blows(self.result.seed)
        for number in itertools.count(1):
            if not self._comes_to_round(number):
                break
            if number == 1:
                time.sleep(SETTLED_S)
            for blow in next(schedule):
                time.sleep(blow.after_s)
                if self._is_over():
                    break
                self._tell(f"round {number}: {blow}")
                self._strike(blow)
                self.result.blows[blow.kind] += 1
        self._wait_for_the_ends()

    def _comes_to_round(self, number: int) -> bool:
        """True once this round is open; False when the run is over, or stands still, or somebody failed."""
        fleet = self._fleet
        wait_until(
            lambda: fleet.num_opened_rounds() >= number or self._is_over() or bool(self._failed()),
            timeout_s=BEST_WAIT_S,
        )
        if self._failed() or self._is_over():
            return False
        if fleet.num_opened_rounds() < number:
            self.result.problems.append(f"round {number} was not opened within {BEST_WAIT_S:g} s")
            for name in fleet.everybody:
                fleet.show_stack(name)
            return False
        return True

    def _is_over(self) -> bool:
        return not self._fleet.members[AGGREGATOR].is_running

    def _failed(self) -> list[str]:
        return [f"{name} ended with {member.status}" for name, member in self._fleet.members.items() if member.status]

    def _wait_for_the_ends(self) -> None:
        """Of all, unless it is clear already that they will not come."""
        fleet = self._fleet
        if not self.result.problems:
            wait_until(
                lambda: not any(member.is_running for member in fleet.members.values()) or bool(self._failed()),
                timeout_s=BEST_WAIT_S,
            )
            for name in fleet.everybody:
                if fleet.members[name].is_running and not self._failed():
                    self.result.problems.append(f"{name} goes on after {BEST_WAIT_S:g} s")
                    fleet.show_stack(name)
        self.result.problems += self._failed()

    def _strike(self, blow: Blow) -> None:
        if blow.kind == KILL_BROKER:
            node = self._draw_node.choice(self._nodes)
            node.kill()
            time.sleep(blow.seconds)
            node.start()
        elif blow.kind == KILL:
            self._fleet.members[blow.whom].kill()
            self._fleet.start(blow.whom)
        elif blow.kind == PAUSE:
            member = self._fleet.members[blow.whom]
            member.signal(signal.SIGSTOP)
            time.sleep(blow.seconds)
            member.signal(signal.SIGCONT)
        for proxy in self._proxies.get(blow.whom, ()):
            if blow.kind == CUT:
                proxy.cut()
            elif blow.kind == HALF_OPEN:
                proxy.half_open()
            elif blow.kind == HANG:
                proxy.hang(blow.seconds)
            elif blow.kind == SLOW:
                proxy.slow(blow.seconds)


def _url_of(proxy: Proxy) -> str:
    return f"amqp://guest:guest@127.0.0.1:{proxy.port}/"


def undisturbed(folder: Path, node: RabbitNode, *, num_rounds: int) -> str:
    """The digest that the same federation ends with in calm weather."""
    queue = f"calm-{os.getpid()}-{num_rounds}"
    with Fleet(folder, url=node.url, queue=queue, names=NAMES, rounds=num_rounds) as fleet:
        for name in fleet.everybody:
            fleet.start(name)
        for name in fleet.everybody:
            assert fleet.members[name].wait(BEST_WAIT_S) == 0, fleet.logs()
        assert fleet.miscounted() == {}
        sha256 = fleet.final_sha256
    fleet.delete_queues()
    assert sha256 is not None
    return sha256


@contextmanager
def _nodes(folder: Path, cluster: RabbitCluster | None) -> Iterator[Sequence[RabbitNode]]:
    """Those of the cluster, healed, or one of its own: a node that was killed may bear the marks of it."""
    if cluster is not None:
        cluster.heal()
        yield cluster.nodes
        return
    with RabbitNode(folder) as node:
        yield [node]


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="chaos.storm", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=20, help="run seeds up to this one")
    parser.add_argument("--first-seed", type=int, default=1, help="and from this one on")
    parser.add_argument("--seed", type=int, help="run this seed alone, and tell of each blow")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--cluster", action="store_true", help="over a cluster of three nodes")
    parser.add_argument("--keep", type=Path, help="folder for state and logs, which then stay")
    given = parser.parse_args()
    folder = given.keep or Path(tempfile.mkdtemp(prefix="chaos-"))
    seeds = range(given.first_seed, given.seeds + 1) if given.seed is None else [given.seed]
    results = []
    with ExitStack() as stack:
        with RabbitNode(folder / "node") as node:
            expected = undisturbed(folder / "calm", node, num_rounds=given.rounds)
        cluster = stack.enter_context(RabbitCluster(folder / "cluster")) if given.cluster else None
        print(TITLE, flush=True)
        for seed in seeds:
            tell = print if given.seed is not None else lambda text: None
            with _nodes(folder / f"node-{seed}", cluster) as nodes:
                storm = Storm(folder / str(seed), nodes, seed=seed, num_rounds=given.rounds, tell=tell)
                results.append(storm.run(expected=expected))
            print(results[-1].line() if results[-1].is_ok else results[-1], flush=True)
    if not given.keep and all(result.is_ok for result in results):
        shutil.rmtree(folder, ignore_errors=True)
    num_ok = sum(result.is_ok for result in results)
    print(
        f"{num_ok} of {len(results)} seeds ended well: {sum(result.num_lost for result in results)} lost,"
        f" {sum(result.num_doubled for result in results)} doubled;"
        f" {sum(sum(result.blows.values()) for result in results)} blows in {sum(r.num_rounds for r in results)} rounds"
    )
    return 0 if num_ok == len(results) else 1


if __name__ == "__main__":
    sys.exit(main())
