"""Runs over a cluster of three nodes that are killed, restarted, paused and cut off, as a table.

    python -m cluster                              every blow, 30 rounds each
    python -m cluster --only 'rolling restart'     one of them; may be given several times
    python -m cluster --points                     the crash matrix with nodes: killed at each point that meets them
    python -m cluster --net-ticktime-s 15 --heartbeat-s 10 --only 'SIGSTOP for 90 s'
    RABBITMQ_CHROOT=/tmp/trixie python -m cluster  on the RabbitMQ in that folder

The exit code is 1 if any run ends with other bits than the undisturbed one, or an update is lost or counted twice, or a
round is held up for longer than --most-s, besides the time in which no node can notice what happened.
"""

import argparse
import os
import shutil
import sys
import tempfile
from pathlib import Path

from cluster.blows import BLOWS
from cluster.struck import cells, struck, undisturbed
from cluster.trial import Outcome, calm, disturbed
from rabbitmq_cluster import RabbitCluster

_TITLE = f"{'what happens':30}  rounds  usual s  held up s  lost  doubled  abandoned  digest"


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="cluster", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", action="append", choices=list(BLOWS), help="this one alone")
    parser.add_argument(
        "--points", nargs="?", const="", metavar="TEXT", help="the points, or those with this in their name"
    )
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--heartbeat-s", type=int, default=5, help="of aggregator and workers")
    parser.add_argument("--net-ticktime-s", type=int, help="of the nodes, instead of their default")
    parser.add_argument("--most-s", type=float, default=10.0, help="how long a round may be held up")
    parser.add_argument("--keep", type=Path, help="folder for state and logs, which then stay")
    given = parser.parse_args()
    folder = given.keep or Path(tempfile.mkdtemp(prefix="cluster-"))
    outcomes = []
    with RabbitCluster(folder / "nodes", net_ticktime_s=given.net_ticktime_s) as cluster:
        if given.points is not None:
            return _strike_at_points(folder, cluster, given.points)
        print(f"RabbitMQ {cluster.nodes[0].ctl('version').strip()}", _TITLE, sep="\n", flush=True)
        beat = ("--heartbeat-s", str(given.heartbeat_s))
        expected = calm(folder / "calm", cluster, queue="calm", rounds=given.rounds, flags=beat)
        for number, name in enumerate(given.only or BLOWS):
            cluster.heal()
            outcome = disturbed(
                folder / f"run-{number}",
                cluster,
                BLOWS[name],
                queue=f"cluster-{os.getpid()}-{number}",
                rounds=given.rounds,
                expected=expected,
                flags=beat,
            )
            outcomes.append(outcome)
            print(_line(outcome), *outcome.problems, sep="\n", flush=True)
    num_ok = sum(_is_ok(outcome, given.most_s) for outcome in outcomes)
    print(f"{num_ok} of {len(outcomes)} ended well")
    if num_ok == len(outcomes) and not given.keep:
        shutil.rmtree(folder, ignore_errors=True)
    return 0 if num_ok == len(outcomes) else 1


def _strike_at_points(folder: Path, cluster: RabbitCluster, text: str) -> int:
    chosen = [cell for cell in cells() if text in cell.name]
    expected = undisturbed(folder / "undisturbed", cluster, queue="undisturbed")
    bad = 0
    for number, cell in enumerate(chosen):
        cluster.heal()
        queue = f"struck-{os.getpid()}-{number}"
        outcome = struck(cell, folder / str(number), cluster, queue=queue, expected=expected)
        bad += bool(outcome.problems)
        print(f"{'ok ' if not outcome.problems else 'BAD'} {outcome.seconds:4.0f} s  {outcome}", flush=True)
    print(f"{len(chosen) - bad} of {len(chosen)} cells ended with the same bits, each update counted once")
    return 1 if bad else 0


def _is_ok(outcome: Outcome, most_s: float) -> bool:
    return outcome.is_ok and outcome.held_up_s <= BLOWS[outcome.blow].hangs_s + most_s


def _line(outcome: Outcome) -> str:
    return (
        f"{outcome.blow:30}  {outcome.num_rounds:>6}  {outcome.usual_s:>7.1f}  {outcome.held_up_s:>9.1f}"
        f"  {outcome.num_lost:>4}  {outcome.num_doubled:>7}  {outcome.num_abandoned:>9}"
        f"  {'equal' if outcome.is_equal else 'DIFFERENT'}{'  OVER TOO SOON' if outcome.is_over_too_soon else ''}"
    )


if __name__ == "__main__":
    sys.exit(main())
