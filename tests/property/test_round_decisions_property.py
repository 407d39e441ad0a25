"""Whatever the policy and whatever comes, a decision makes sense."""

from hypothesis import given, settings
from hypothesis import strategies as st

from aggregator.rounds.policy import Close, ClosedBy, Extended, OnShort, Quorum, Round, RoundPolicy, Wait, decide

SECONDS = st.floats(0.001, 1e6)
POLICIES = st.builds(
    RoundPolicy,
    quorum=st.builds(Quorum, count=st.integers(1, 8)) | st.builds(Quorum, share=st.floats(0.01, 1.0)),
    deadline_s=st.none() | SECONDS,
    grace_s=st.just(0.0) | SECONDS,
    min_updates=st.integers(1, 6),
    on_short=st.sampled_from(OnShort),
    max_staleness=st.integers(0, 3),
)
EVENTS = st.lists(st.tuples(st.floats(0, 1e5), st.integers(0, 2), st.integers(0, 9)), max_size=20)
"""(seconds until, updates that come, workers present then)"""


@settings(max_examples=500)
@given(POLICIES, st.floats(0, 1e9), EVENTS)
def test_a_round_waits_for_a_time_to_come_or_closes_for_a_reason_that_holds(
    policy: RoundPolicy, opened_at: float, events: list[tuple[float, int, int]]
) -> None:
    state, now, num_folded = Round.open(1, policy, now=opened_at), opened_at, 0
    for seconds, num_new, num_present in events:
        now, num_folded = now + seconds, num_folded + num_new
        before = state
        state, decision = decide(policy, state, now=now, num_folded=num_folded, num_present=num_present)
        has_quorum, has_floor = num_folded >= policy.target(num_present), num_folded >= policy.min_updates
        is_past = before.deadline_at is not None and now >= before.deadline_at

        match decision:
            case Wait(until):
                assert until is None or until > now
                assert (until is None) == (state.deadline_at is None and state.quorum_at is None)
                assert not is_past
            case Extended(until):
                assert until >= now
                assert state.deadline_at == until
                assert is_past
                assert not has_floor
                assert policy.on_short is OnShort.EXTEND
            case Close(ClosedBy.QUORUM):
                assert has_quorum
                assert has_floor
            case Close(ClosedBy.DEADLINE):
                assert has_floor
                assert is_past or state.is_extended
            case Close(by):
                assert is_past
                assert not has_floor
                assert by == {OnShort.ACCEPT: ClosedBy.SHORT, OnShort.ABANDON: ClosedBy.ABANDONED}[policy.on_short]
        if isinstance(decision, Close):
            return


@given(POLICIES, st.floats(0, 1e9), st.integers(0, 20), st.integers(0, 20))
def test_nothing_changes_when_the_same_is_asked_again(
    policy: RoundPolicy, now: float, num_folded: int, num_present: int
) -> None:
    first = decide(policy, Round.open(1, policy, now=now), now=now, num_folded=num_folded, num_present=num_present)
    again = decide(policy, first[0], now=now, num_folded=num_folded, num_present=num_present)
    assert again == first


@given(POLICIES, st.integers(0, 100))
def test_the_target_is_at_least_one_and_at_least_the_floor(policy: RoundPolicy, num_present: int) -> None:
    assert policy.target(num_present) >= max(1, policy.min_updates)
    assert policy.quorum.target(num_present) <= max(1, num_present, policy.quorum.count or 0)


@given(POLICIES, st.floats(0, 1e9), st.integers(8, 20))
def test_a_round_that_nobody_can_bring_an_update_to_is_over_at_once(
    policy: RoundPolicy, now: float, num_unable: int
) -> None:
    state = Round.open(1, policy, now=now)
    _, decision = decide(policy, state, now=now, num_folded=0, num_present=0, num_unable=num_unable)
    by = ClosedBy.SHORT if policy.on_short is OnShort.ACCEPT else ClosedBy.ABANDONED
    assert decision == Close(by)


@given(POLICIES, st.integers(0, 20), st.integers(0, 20))
def test_who_has_no_update_never_raises_the_target(policy: RoundPolicy, num_present: int, num_unable: int) -> None:
    lowered = policy.target(num_present, num_unable=num_unable)
    assert max(1, policy.min_updates) <= lowered <= policy.target(num_present + num_unable)
