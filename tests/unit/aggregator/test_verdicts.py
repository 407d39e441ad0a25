"""What becomes of a message, as a table."""

from collections.abc import Sequence
from typing import Any

import pytest

from aggregator.rounds.verdicts import Decision, Duplicate, Fold, Late, Refuse, decide_on
from aggregator.weighing import Weigher, discount
from broker.wire.messages import Folded

OLD, NEW = "0" * 16, "1" * 16


def claim(worker: str, instance: str = OLD, num_samples: int = 4) -> Folded:
    return Folded(worker=worker, instance=instance, num_samples=num_samples, num_bytes=8, train_s=0.1, sent_at=1.0)


A, B, A_AGAIN = claim("a"), claim("b", num_samples=6), claim("a", NEW)


IS_IN = "an update of a for round 3 is in already"


def decision(claims: Sequence[Folded], **changes: Any) -> Decision:
    plain: dict[str, Any] = {
        "base_round": 3,
        "open_round": 3,
        "known": {},
        "max_staleness": 0,
        "weigher": Weigher(),
    }
    return decide_on(claims, **(plain | changes))


@pytest.mark.parametrize(
    ("claims", "changes", "expected"),
    [
        ([A], {}, Fold((4.0,), (4,))),
        ([A], {"weigher": Weigher.parse("uniform")}, Fold((1.0,), (1,))),
        ([A, B], {}, Fold((4.0, 6.0), (4, 6))),
        ([A, B], {"weigher": Weigher.parse("uniform")}, Fold((1.0, 1.0), (1, 1))),
        ([A], {"open_round": 5, "max_staleness": 3}, Fold((4 * discount(2),), (4,), 2)),
        ([A], {"open_round": 6, "max_staleness": 3}, Fold((2.0,), (4,), 3)),
        ([A], {"open_round": 7, "max_staleness": 3}, Late((A,), "round 3 is closed; the open one is 7")),
        ([A], {"open_round": 4}, Late((A,), "round 3 is closed; the open one is 4")),
        ([A, B], {"open_round": 4}, Late((A, B), "round 3 is closed; the open one is 4")),
        ([A, B], {"open_round": 4, "known": {"a": OLD}}, Late((B,), "round 3 is closed; the open one is 4")),
        ([A, B], {"known": {"a": OLD}}, Refuse("of its 2 updates those of a are in already")),
        ([A], {"known": {"a": OLD}}, Duplicate((), IS_IN)),
        ([A_AGAIN], {"known": {"a": OLD}}, Duplicate((A_AGAIN,), IS_IN)),
        (
            [A_AGAIN],
            {"known": {"a": OLD}, "open_round": 9},
            Duplicate((A_AGAIN,), IS_IN),
        ),
        ([A_AGAIN, B], {"known": {"a": OLD, "b": OLD}}, Duplicate((), IS_IN)),
    ],
)
def test_a_message_gets_the_verdict_that_its_claims_ask_for(
    claims: Sequence[Folded], changes: dict[str, Any], expected: Decision
) -> None:
    assert decision(claims, **changes) == expected


def test_each_round_of_staleness_discounts_more() -> None:
    factors = [discount(staleness) for staleness in range(20)]
    assert factors[0] == 1.0
    assert factors == sorted(factors, reverse=True)
    assert factors[3] == 0.5
