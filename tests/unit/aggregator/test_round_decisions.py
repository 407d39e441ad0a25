"""When a round ends: every rule, with the clock passed in."""

from dataclasses import replace

import pytest

from aggregator.rounds.policy import (
    Close,
    ClosedBy,
    Decision,
    Extended,
    OnShort,
    Quorum,
    Round,
    RoundPolicy,
    Wait,
    decide,
)

POLICY = RoundPolicy(quorum=Quorum(count=3), deadline_s=60.0)
OPENED_AT = 100.0
ROUND = Round.open(1, POLICY, now=OPENED_AT)


def decision(
    policy: RoundPolicy = POLICY,
    state: Round = ROUND,
    *,
    after_s: float = 1.0,
    num_folded: int = 0,
    num_present: int = 5,
) -> Decision:
    return decide(policy, state, now=OPENED_AT + after_s, num_folded=num_folded, num_present=num_present)[1]


def test_a_round_waits_until_its_deadline_while_it_has_less_than_its_quorum() -> None:
    assert decision(num_folded=2) == Wait(160.0)


def test_a_round_without_a_deadline_waits_for_ever() -> None:
    policy = replace(POLICY, deadline_s=None)
    assert decision(policy, Round.open(1, policy, now=0.0), after_s=1e9) == Wait(None)


def test_a_count_closes_the_round_when_it_is_reached() -> None:
    assert decision(num_folded=3) == Close(ClosedBy.QUORUM)
    assert decision(num_folded=4) == Close(ClosedBy.QUORUM)


def test_a_count_does_not_depend_on_who_is_present() -> None:
    assert decision(num_folded=2, num_present=0) == Wait(160.0)


def test_a_share_is_of_those_present_rounded_up() -> None:
    policy = replace(POLICY, quorum=Quorum(share=0.5))
    assert decision(policy, num_folded=2, num_present=5) == Wait(160.0)
    assert decision(policy, num_folded=3, num_present=5) == Close(ClosedBy.QUORUM)


@pytest.mark.parametrize(("share", "num_present", "target"), [(0.8, 5, 4), (0.1, 30, 3), (0.7, 10, 7), (1.0, 7, 7)])
def test_a_share_is_not_rounded_up_by_a_rounding_error(share: float, num_present: int, target: int) -> None:
    assert Quorum(share=share).target(num_present) == target


def test_a_share_of_nobody_is_one() -> None:
    assert Quorum(share=1.0).target(0) == 1


def test_the_floor_holds_where_the_quorum_is_below_it() -> None:
    policy = replace(POLICY, quorum=Quorum(count=1), min_updates=2)
    assert decision(policy, num_folded=1) == Wait(160.0)
    assert decision(policy, num_folded=2) == Close(ClosedBy.QUORUM)


def test_a_quorum_with_grace_waits_for_the_grace_from_when_it_was_reached() -> None:
    policy = replace(POLICY, grace_s=10.0)
    state, waiting = decide(policy, ROUND, now=105.0, num_folded=3, num_present=5)
    assert waiting == Wait(115.0)
    state, waiting = decide(policy, state, now=110.0, num_folded=4, num_present=5)
    assert waiting == Wait(115.0)
    assert decide(policy, state, now=115.0, num_folded=4, num_present=5)[1] == Close(ClosedBy.QUORUM)


def test_the_grace_ends_with_the_deadline() -> None:
    policy = replace(POLICY, grace_s=10.0)
    state, waiting = decide(policy, ROUND, now=155.0, num_folded=3, num_present=5)
    assert waiting == Wait(160.0)
    assert decide(policy, state, now=160.0, num_folded=3, num_present=5)[1] == Close(ClosedBy.DEADLINE)


def test_a_quorum_is_lost_when_more_workers_appear_and_its_grace_begins_anew() -> None:
    policy = replace(POLICY, quorum=Quorum(share=1.0), grace_s=10.0)
    state, _ = decide(policy, ROUND, now=105.0, num_folded=2, num_present=2)
    assert state.quorum_at == 105.0
    state, waiting = decide(policy, state, now=110.0, num_folded=2, num_present=3)
    assert (state.quorum_at, waiting) == (None, Wait(160.0))
    state, waiting = decide(policy, state, now=120.0, num_folded=3, num_present=3)
    assert (state.quorum_at, waiting) == (120.0, Wait(130.0))


def test_a_worker_that_leaves_may_complete_a_share() -> None:
    policy = replace(POLICY, quorum=Quorum(share=1.0))
    assert decision(policy, num_folded=2, num_present=3) == Wait(160.0)
    assert decision(policy, num_folded=2, num_present=2) == Close(ClosedBy.QUORUM)


def test_the_deadline_closes_a_round_that_has_the_floor() -> None:
    assert decision(after_s=59.9, num_folded=1) == Wait(160.0)
    assert decision(after_s=60.0, num_folded=1) == Close(ClosedBy.DEADLINE)


def test_a_quorum_reached_by_the_deadline_is_a_quorum() -> None:
    assert decision(after_s=61.0, num_folded=3) == Close(ClosedBy.QUORUM)


def test_extend_waits_for_another_deadline_again_and_again_until_the_floor_is_reached() -> None:
    policy = replace(POLICY, min_updates=2)
    state, extended = decide(policy, ROUND, now=160.0, num_folded=1, num_present=5)
    assert extended == Extended(220.0)
    state, waiting = decide(policy, state, now=170.0, num_folded=1, num_present=5)
    assert waiting == Wait(220.0)
    state, extended = decide(policy, state, now=225.0, num_folded=1, num_present=5)
    assert extended == Extended(285.0)
    assert decide(policy, state, now=230.0, num_folded=2, num_present=5)[1] == Close(ClosedBy.DEADLINE)


def test_accept_takes_what_is_there_even_if_it_is_nothing() -> None:
    policy = replace(POLICY, min_updates=2, on_short=OnShort.ACCEPT)
    assert decision(policy, after_s=60.0, num_folded=1) == Close(ClosedBy.SHORT)
    assert decision(policy, after_s=60.0, num_folded=0) == Close(ClosedBy.SHORT)
    assert decision(policy, after_s=60.0, num_folded=2) == Close(ClosedBy.DEADLINE)


def test_abandon_drops_what_is_there() -> None:
    policy = replace(POLICY, min_updates=2, on_short=OnShort.ABANDON)
    assert decision(policy, after_s=60.0, num_folded=1) == Close(ClosedBy.ABANDONED)
    assert decision(policy, after_s=59.0, num_folded=1) == Wait(160.0)


def test_deciding_changes_nothing() -> None:
    before = replace(ROUND)
    decide(replace(POLICY, grace_s=5.0, min_updates=9), ROUND, now=1e6, num_folded=4, num_present=5)
    assert before == ROUND


@pytest.mark.parametrize(
    ("text", "quorum"),
    [("3", Quorum(count=3)), ("80%", Quorum(share=0.8)), ("0.8", Quorum(share=0.8)), ("100%", Quorum(share=1.0))],
)
def test_a_quorum_is_a_count_or_a_share(text: str, quorum: Quorum) -> None:
    assert Quorum.parse(text) == quorum


@pytest.mark.parametrize(
    "text", ["", "0", "-1", "many", "0%", "101%", "1.5", "0.0", "nan%", "inf%", "nan", "3.0%%", "%"]
)
def test_what_is_neither_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="expected a count such as 3"):
        Quorum.parse(text)


@pytest.mark.parametrize("text", ["3", "80%", "0.8", "80.0%", "12.5%"])
def test_a_quorum_is_said_as_it_was_given(text: str) -> None:
    assert str(Quorum.parse(text)) == text
    assert Quorum.parse(str(Quorum.parse(text))) == Quorum.parse(text)


def test_a_quorum_that_nobody_gave_is_said_in_the_shortest_way() -> None:
    assert (str(Quorum(count=3)), str(Quorum(share=0.8)), str(Quorum(share=1.0))) == ("3", "80%", "100%")


def test_a_quorum_in_words_says_of_whom_it_is_a_share() -> None:
    assert Quorum.parse("3").in_words == "3"
    assert Quorum.parse("0.8").in_words == "80% of those present"


def test_a_share_among_so_many_is_a_count() -> None:
    assert Quorum.parse("80%").counted(8) == Quorum(count=7)
    assert Quorum.parse("3").counted(8) == Quorum(count=3)
