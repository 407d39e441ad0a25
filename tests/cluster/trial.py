"""One run over a cluster to which something happens, and what came of it."""

import itertools
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cluster.blows import Blow
from crash.fleet import AGGREGATOR, Fleet
from rabbitmq_cluster import RabbitCluster
from rabbitmq_node import wait_until

NAMES = ("anna", "ben", "carl")
QUICK_S = 0.3
ENDS_WITHIN_S = 180.0
FROM_ROUND = 3
_SLACK = 1.2
FLAGS = ("--heartbeat-s", "5")
"""So that a node which hangs is noticed soon; the default is a minute."""


@dataclass(slots=True)
class Outcome:
    """What came of one run."""

    blow: str
    num_rounds: int = 0
    longest_gap_s: float = 0.0
    """The longest that a round took which ended after the blow, from the end of the one before."""
    usual_s: float = 0.0
    """The longest that rounds took until then."""
    is_over_too_soon: bool = False
    """Whether the run ended before all had happened."""
    num_lost: int = 0
    num_doubled: int = 0
    num_abandoned: int = 0
    is_equal: bool = False
    problems: list[str] = field(default_factory=list)

    @property
    def is_right(self) -> bool:
        """Whether nobody ended, nothing was lost or counted twice, and the bits are those of the undisturbed run."""
        return self.is_equal and not (self.num_lost or self.num_doubled or self.num_abandoned or self.problems)

    @property
    def is_ok(self) -> bool:
        """The same, and the run outlasted what happened."""
        return self.is_right and not self.is_over_too_soon

    @property
    def held_up_s(self) -> float:
        """How much longer than before a round took at most."""
        return max(0.0, self.longest_gap_s - self.usual_s)


def calm(folder: Path, cluster: RabbitCluster, *, queue: str, rounds: int, flags: Sequence[str] = FLAGS) -> str:
    """The digest of the same run when nothing happens."""
    with _fleet(folder, cluster, queue=queue, rounds=rounds, flags=flags) as fleet:
        _start(fleet)
        statuses = ends(fleet)
        assert set(statuses.values()) == {0}, fleet.logs()
        sha256 = fleet.final_sha256
    assert sha256 is not None
    return sha256


def disturbed(
    folder: Path,
    cluster: RabbitCluster,
    blow: Blow,
    *,
    queue: str,
    rounds: int,
    expected: str,
    flags: Sequence[str] = FLAGS,
) -> Outcome:
    """A run to which this happens from its third round on; its rounds are long enough for it to outlast the blow."""
    outcome = Outcome(blow.name, rounds)
    pace_s = max(QUICK_S, blow.lasts_s * _SLACK / (rounds - FROM_ROUND))
    with _fleet(folder, cluster, queue=queue, rounds=rounds, pace_s=pace_s, flags=flags) as fleet:
        _start(fleet)
        if blow.has_standby:
            fleet.stand_by()
        if not wait_until(lambda: fleet.num_opened_rounds() >= FROM_ROUND, timeout_s=ENDS_WITHIN_S):
            outcome.problems += [f"round {FROM_ROUND} was never opened", fleet.logs()]
            return outcome
        time.sleep(pace_s / 2)  # in mid-round
        struck_at = time.time()
        blow.strike(cluster, fleet)
        outcome.is_over_too_soon = not fleet.members[AGGREGATOR].is_running
        statuses = ends(fleet)
        outcome.problems += [f"{each} ended with {status}" for each, status in statuses.items() if status != 0]
        miscounted = fleet.miscounted()
        outcome.num_lost = sum(number == 0 for number in miscounted.values())
        outcome.num_doubled = sum(number > 1 for number in miscounted.values())
        outcome.num_abandoned = fleet.rows("SELECT count(*) FROM rounds WHERE closed_by != 'quorum'")[0][0]
        outcome.is_equal = fleet.final_sha256 == expected
        closed_at = [
            float(row[0]) for row in fleet.rows("SELECT closed_at FROM rounds WHERE closed_at > 0 ORDER BY round")
        ]
        gaps = [(end, end - before) for before, end in itertools.pairwise(closed_at)]
        outcome.longest_gap_s = max((gap for end, gap in gaps if end > struck_at), default=0.0)
        outcome.usual_s = max((gap for end, gap in gaps if end <= struck_at), default=0.0)
        if outcome.problems:
            outcome.problems.append(fleet.logs(num_lines=40))
    return outcome


def _fleet(
    folder: Path, cluster: RabbitCluster, *, queue: str, rounds: int, flags: Sequence[str], pace_s: float = QUICK_S
) -> Fleet:
    paces = dict.fromkeys(NAMES, pace_s)
    return Fleet(folder, url=cluster.url, queue=queue, names=NAMES, rounds=rounds, flags=flags, paces=paces)


def _start(fleet: Fleet) -> None:
    for name in fleet.everybody:
        fleet.start(name)


def ends(fleet: Fleet) -> dict[str, int | None]:
    """Member -> its exit code; None: it goes on although time is up, or nobody leads any more."""
    members = fleet.members
    wait_until(
        lambda: (
            not any(member.is_running for member in members.values())
            or any(member.status for member in members.values())
        ),
        timeout_s=ENDS_WITHIN_S,
    )
    for name, member in members.items():
        if member.is_running:
            fleet.show_stack(name)
    return {name: member.status for name, member in members.items()}
