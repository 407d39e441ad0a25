"""Runs over a cluster of three nodes that are killed, restarted, paused and cut off, as a table.

    python -m cluster                              every blow, 30 rounds each
    python -m cluster --only 'rolling restart'     one of them; may be given several times
    RABBITMQ_CHROOT=/tmp/trixie python -m cluster  on the RabbitMQ in that folder

The exit code is 1 if any run ends with other bits than the undisturbed one, or an update is lost or counted twice, or a
round takes longer than the blow itself and --most-gap-s.
"""

import argparse
import os
import shutil
import sys
import tempfile
from pathlib import Path

from cluster.blows import BLOWS, LONGER_THAN_THE_NET_TICK_S
from cluster.trial import Outcome, calm, disturbed
from rabbitmq_cluster import RabbitCluster

_LASTING = ("SIGSTOP", "partition")
"""Blows that last for a while; what they hold up in that time is told, and no fault."""
_TITLE = f"{'what happens':30}  rounds  usual s  longest s  lost  doubled  abandoned  digest"


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="cluster", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", action="append", choices=list(BLOWS), help="this one alone")
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--most-gap-s", type=float, default=10.0, help="the longest a round may take after a blow")
    parser.add_argument("--keep", type=Path, help="folder for state and logs, which then stay")
    given = parser.parse_args()
    folder = given.keep or Path(tempfile.mkdtemp(prefix="cluster-"))
    outcomes = []
    with RabbitCluster(folder / "nodes") as cluster:
        print(f"RabbitMQ {cluster.nodes[0].ctl('version').strip()}", _TITLE, sep="\n", flush=True)
        expected = calm(folder / "calm", cluster, queue="calm", rounds=given.rounds)
        for number, name in enumerate(given.only or BLOWS):
            cluster.heal()
            outcome = disturbed(
                folder / f"run-{number}",
                cluster,
                BLOWS[name],
                name=name,
                queue=f"cluster-{os.getpid()}-{number}",
                rounds=given.rounds,
                expected=expected,
            )
            outcomes.append(outcome)
            print(_line(outcome), *outcome.problems, sep="\n", flush=True)
    num_ok = sum(_is_ok(outcome, given.most_gap_s) for outcome in outcomes)
    print(f"{num_ok} of {len(outcomes)} ended well")
    if num_ok == len(outcomes) and not given.keep:
        shutil.rmtree(folder, ignore_errors=True)
    return 0 if num_ok == len(outcomes) else 1


def _is_ok(outcome: Outcome, most_gap_s: float) -> bool:
    lasts_s = LONGER_THAN_THE_NET_TICK_S if outcome.blow.startswith(_LASTING) else 0.0
    return outcome.is_ok and outcome.longest_gap_s <= lasts_s + most_gap_s


def _line(outcome: Outcome) -> str:
    return (
        f"{outcome.blow:30}  {outcome.num_rounds:>6}  {outcome.usual_s:>7.1f}  {outcome.longest_gap_s:>9.1f}"
        f"  {outcome.num_lost:>4}  {outcome.num_doubled:>7}  {outcome.num_abandoned:>9}"
        f"  {'equal' if outcome.is_equal else 'DIFFERENT'}"
    )


if __name__ == "__main__":
    sys.exit(main())
