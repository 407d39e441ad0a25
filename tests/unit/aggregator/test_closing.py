"""How a round is closed, and when a run ends, as tables."""

from typing import Any

import pytest
from unit.aggregator.closed_rounds import ClosedRounds

from aggregator.closing import Plan, plan_of
from aggregator.state.best_so_far import BestSoFar
from aggregator.state.early_stop import Aim, Ending
from aggregator.state.ledger import ClosedBy

TO_THE_END, EARLY = Ending(rounds=5), Ending(rounds=5, aim=Aim("accuracy"), stop_at=0.9)


@pytest.mark.parametrize(
    ("number", "by", "ending", "expected"),
    [
        (1, ClosedBy.QUORUM, TO_THE_END, Plan(counts=True, next_round=2)),
        (4, ClosedBy.DEADLINE, TO_THE_END, Plan(counts=True, next_round=5)),
        (5, ClosedBy.QUORUM, TO_THE_END, Plan(counts=True, next_round=None)),
        (1, ClosedBy.SHORT, TO_THE_END, Plan(counts=True, next_round=2)),
        (1, ClosedBy.ABANDONED, TO_THE_END, Plan(counts=False, next_round=2)),
        (1, ClosedBy.QUORUM, EARLY, Plan(counts=True, next_round=None)),
        (1, ClosedBy.ABANDONED, EARLY, Plan(counts=False, next_round=None)),
    ],
)
def test_a_round_is_averaged_unless_abandoned_and_followed_unless_a_metric_may_end_the_run(
    number: int, by: ClosedBy, ending: Ending, expected: Plan
) -> None:
    assert plan_of(number, by, num_folded=7, ending=ending) == expected


WORSE = "accuracy was not better than in round 1 (0.5) for 2 rounds"


def rows(*accuracies: float) -> list[dict[str, Any]]:
    return [
        {"round": number, "metrics": {"accuracy": value}, "worker_metrics": {}}
        for number, value in enumerate(accuracies, 1)
    ]


@pytest.mark.parametrize(
    ("ending", "accuracies", "reason"),
    [
        (TO_THE_END, (0.1, 0.2), None),
        (TO_THE_END, (0.1,) * 5, "all 5 rounds are done"),
        (EARLY, (), None),
        (EARLY, (0.5, 0.8), None),
        (EARLY, (0.5, 0.9), "accuracy reached 0.9 in round 2"),
        (Ending(rounds=9, aim=Aim("accuracy"), patience=2), (0.5, 0.4), None),
        (
            Ending(rounds=9, aim=Aim("accuracy"), patience=2),
            (0.5, 0.4, 0.5),
            WORSE,
        ),
        (Ending(rounds=9, aim=Aim("f1"), patience=2), (0.5, 0.4, 0.5), None),
    ],
)
def test_a_run_ends_after_its_last_round_or_on_its_metric(
    ending: Ending, accuracies: tuple[float, ...], reason: str | None
) -> None:
    assert ending.reason_after(len(accuracies), BestSoFar(ClosedRounds(rows(*accuracies))).after) == reason
