"""What a keeper refuses, whoever asks: in words that name who, and for good where nothing of the round may follow."""

import hashlib
from pathlib import Path
from typing import Any

import pytest
from unit.keeper.asking import (
    FEDERATION,
    FOREIGN,
    HALVES,
    KEEPER,
    RUN,
    SITES,
    WORDS,
    Asking,
    masked_of,
    request,
    sealed_seed,
    seed,
)
from unit.members import ChangingRoster, FixedCertificate

from broker.wire import digest_of_set, encode, packed_seeds
from identities.certificates import Certificate
from identities.in_memory import AGGREGATOR
from identities.private_keys import PrivateKeys
from identities.trust import Verified
from keeper import Noise
from keeper.events import Withholding

SEEDS = [seed(name) for name in SITES]
DP = Noise(multiplier=5.0, epsilon=8.0, delta=1e-5)


def noised(name: str, number: int = 1, **changes: Any) -> bytes:
    return seed(name, number, **({"clip": 0.5, "step": 2.0**-20} | changes))


def admitted(worker: str, asking: Asking, *, site: str = SITES[0]) -> tuple[bytes, bytes]:
    """The id of the key of one more worker of a site, and its seed's message."""
    keys = PrivateKeys.generate("worker", worker)
    certificate = Certificate.issue(FEDERATION.keys[site], keys.public, now=asking.time(), days=1)
    trust = Verified(ChangingRoster(FEDERATION.roster), keys, FixedCertificate(certificate), clock=asking.time)
    return keys.public.key_id, seed(worker, trust=trust)


@pytest.mark.parametrize("other", [SITES[:3], (*SITES[:3], SITES[0] + "-2")], ids=["minus one", "one exchanged"])
def test_no_other_set_is_released_after_one_also_not_by_the_next_process(
    tmp_path: Path, other: tuple[str, ...], caplog: pytest.LogCaptureFixture
) -> None:
    asking = Asking(tmp_path)
    first = asking.ask(request(SEEDS))
    messages = [admitted(name, asking)[1] if name not in SITES else seed(name) for name in other]
    for _ in range(2):
        refusal = asking.ask(request(messages)).refusal
        assert (refusal.is_final, refusal.ends_run) == (True, False)
        assert "another set: round 1 of run heart.0a1b2c3d was released for 4 updates of 4 sites" in refusal.reason
        asking.begin()
    assert asking.ask(request(SEEDS)) == first
    assert f"the sum asked by aggregator {AGGREGATOR}: asked for another set" in caplog.text


def test_the_same_set_with_other_seeds_is_refused(tmp_path: Path) -> None:
    """With seeds of its own for the same bodies, an aggregator would know the sum of masks, and so the noise."""
    asking = Asking(tmp_path, noise=DP)
    asking.ask(request([noised(name) for name in SITES]))
    refusal = asking.ask(request([noised(name, secret=bytes(32)) for name in SITES])).refusal
    assert refusal.is_final
    assert "the same set with other seeds" in refusal.reason


@pytest.mark.parametrize("sizes", [{"num_words": WORDS - 2, "num_halves": HALVES}, {"num_words": 0, "num_halves": 8}])
def test_the_same_set_in_integers_of_other_sizes_is_refused_after_its_sum_was_given(
    tmp_path: Path, sizes: dict[str, int]
) -> None:
    """Other draws would lie on the same masks: a second noise on one sum, for one charge."""
    asking = Asking(tmp_path, noise=DP)
    messages = [noised(name) for name in SITES]
    first = asking.ask(request(messages))
    refusal = asking.ask(request(messages, **sizes)).refusal
    assert refusal.is_final
    assert f"its mask has {WORDS} and {HALVES} integers" in refusal.reason
    assert asking.ask(request(messages)) == first


def test_too_few_sites_are_refused_and_more_may_be_asked_for_afterwards(tmp_path: Path) -> None:
    asking = Asking(tmp_path, min_sites=4)
    refusal = asking.ask(request(SEEDS[:3])).refusal
    assert not refusal.is_final
    assert refusal.reason == f"3 updates of 3 sites; keeper {KEEPER} asks for at least 4 sites"
    assert asking.ask(request(SEEDS)).head.num_sites == 4


def test_the_floor_of_the_roster_and_that_of_a_worker_hold_too(tmp_path: Path) -> None:
    asking = Asking(tmp_path)
    asking.rosters.roster = FEDERATION.roster.with_members(min_sites=4)
    assert "asks for at least 4 sites" in asking.ask(request(SEEDS[:3])).refusal.reason
    asking.rosters.roster = FEDERATION.roster
    strict = [seed(SITES[0]), seed(SITES[1], min_sites=4), seed(SITES[2])]
    assert f"{SITES[1]} asks for at least 4 sites" in asking.ask(request(strict)).refusal.reason
    assert asking.ask(request(SEEDS[:3])).head.num_sites == 3


def test_a_site_with_a_thousand_workers_counts_once(tmp_path: Path) -> None:
    asking = Asking(tmp_path, min_sites=3)
    many = [admitted(f"{SITES[0]}-{number}", asking)[1] for number in range(1000)]
    refusal = asking.ask(request([*many, seed(SITES[1])])).refusal
    assert refusal.reason == f"1001 updates of 2 sites; keeper {KEEPER} asks for at least 3 sites"


def test_a_seed_that_was_signed_by_another_is_named_and_the_rest_may_be_asked_for(tmp_path: Path) -> None:
    asking = Asking(tmp_path)
    forged = {
        "by another worker": seed(SITES[0], trust=FEDERATION.trust(SITES[1])),
        "by a stranger of the same name": seed(SITES[0], trust=FOREIGN.trust(SITES[0])),
        "by nobody": encode(sealed_seed(SITES[0])),
        "changed on its way": seed(SITES[0]).replace(masked_of(SITES[0]).encode(), masked_of(SITES[1]).encode()),
    }
    for who, message in forged.items():
        refusal = asking.ask(request([message, *SEEDS[1:]])).refusal
        assert list(refusal.unfit) == [SITES[0]], who
        assert refusal.reason.startswith(f"seeds that cannot be used: {SITES[0]}: "), who
        assert not refusal.is_final
    assert asking.ask(request(SEEDS[1:])).head.num_updates == 3


def test_a_worker_whose_certificate_was_revoked_or_is_over_does_not_count(tmp_path: Path) -> None:
    asking = Asking(tmp_path)
    key_id, message = admitted(f"{SITES[0]}-7", asking)
    asking.rosters.roster = FEDERATION.roster.without([], [key_id])
    refusal = asking.ask(request([message, *SEEDS[1:]])).refusal
    assert refusal.unfit == {f"{SITES[0]}-7": f"key {key_id.hex()} is revoked"}
    asking.rosters.roster = FEDERATION.roster
    asking.time.now += 10 * 86_400
    assert "certificate" in asking.ask(request([message, *SEEDS[1:]])).refusal.unfit[f"{SITES[0]}-7"]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"round": 2}, "its seed is for round 2 of run heart.0a1b2c3d"),
        ({"run_id": "heart.other"}, "its seed is for round 1 of run heart.other"),
        ({"keeper": "other"}, "its seed is for keeper other"),
        ({"num_words": 7}, "its mask has 7 and 30001 integers"),
    ],
)
def test_a_seed_for_something_else_is_named(tmp_path: Path, changes: dict[str, Any], reason: str) -> None:
    refusal = Asking(tmp_path).ask(request([seed(SITES[0], **changes), *SEEDS[1:]])).refusal
    assert list(refusal.unfit) == [SITES[0]]
    assert reason in refusal.unfit[SITES[0]]


def test_a_replayed_seed_is_refused(tmp_path: Path) -> None:
    asking = Asking(tmp_path)
    asking.ask(request(SEEDS))
    again = [SEEDS[0], *(seed(name, 2) for name in SITES[1:])]
    refusal = asking.ask(request(again, 2)).refusal
    assert "it was used or sent before" in refusal.unfit[SITES[0]]
    twice = [seed(SITES[0], 2), *(seed(name, 2) for name in SITES)]
    assert f"more than one seed of {SITES[0]}" in asking.ask(request(twice, 2)).refusal.reason


def test_a_seed_that_does_not_open_is_named_already_when_it_is_offered(tmp_path: Path) -> None:
    asking = Asking(tmp_path)
    public = FEDERATION.keys["other"].public.opening_key
    assert public is not None
    head = sealed_seed(SITES[0]).model_copy(update={"sealed": sealed_seed(SITES[1]).sealed})
    broken = encode(head, trust=FEDERATION.trust(SITES[0]))
    refusal = asking.ask(request([broken, *SEEDS[1:3]], is_offer=True)).refusal
    assert refusal.unfit == {
        SITES[0]: "its seed does not open: it was sealed to another key than this keeper's, or for another update"
    }
    assert asking.ask(request(SEEDS[1:])).head.num_updates == 3


def test_updates_from_different_models_or_with_different_clips_are_refused_by_name(tmp_path: Path) -> None:
    asking = Asking(tmp_path)
    refusal = asking.ask(request([seed(SITES[0], model_sha256="cd" * 32), *SEEDS[1:]])).refusal
    assert refusal.unfit == {SITES[0]: "it was trained from another model than the rest"}
    mixed = [noised(SITES[0], clip=5.0), *map(noised, SITES[1:])]
    reason = asking.ask(request(mixed)).refusal.reason
    assert "not clipped alike" in reason
    assert f"to 5 in steps of 9.53674e-07: {SITES[0]}" in reason
    assert "not clipped alike" in asking.ask(request([seed(SITES[0]), *map(noised, SITES[1:])])).refusal.reason


def test_a_set_that_is_not_that_of_the_seeds_is_refused(tmp_path: Path) -> None:
    refusal = Asking(tmp_path).ask(request(SEEDS, set_sha256="00" * 32)).refusal
    assert refusal.reason == "the seeds are not those of the set that is asked for"


def test_what_no_aggregator_signed_or_was_asked_of_another_is_dropped_without_an_answer(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    asking = Asking(tmp_path)
    asking.send(
        request(SEEDS, trust=FOREIGN.trust(AGGREGATOR)),
        request(SEEDS, trust=FEDERATION.trust(SITES[0])),
        request(SEEDS, keeper="other"),
        request(SEEDS, seeds_sha256="00" * 32),
        b"no message at all",
    )
    asking.steps()
    assert asking.answers() == []
    for words in ("nobody on the roster", f"worker {SITES[0]} may not send a request", "asks keeper other", "changed"):
        assert words in caplog.text
    assert asking.ask(request(SEEDS)).head.num_updates == 4


def test_seeds_that_do_not_decode_are_refused_and_counted(tmp_path: Path) -> None:
    asking = Asking(tmp_path)
    payload = packed_seeds([SEEDS[0], b"nonsense"])
    whole = request(SEEDS)
    digest = hashlib.sha256(payload).hexdigest()
    head = request(SEEDS, seeds_sha256=digest)
    body = head[: len(head) - len(packed_seeds(SEEDS))] + payload
    assert asking.ask(body).refusal.reason.startswith("seed 2 of the request: not a fedmq message")
    assert asking.ask(whole).head.num_updates == 4
    (refused,) = [event for event in asking.events if isinstance(event, Withholding)]
    assert refused.asker == f"aggregator {AGGREGATOR}"


def test_a_spent_budget_ends_the_run_and_nothing_is_charged_for_it(tmp_path: Path) -> None:
    asking = Asking(tmp_path, noise=Noise(multiplier=1.0, epsilon=7.0, delta=1e-5))
    assert asking.ask(request([noised(name) for name in SITES])).head.noise
    assert asking.ask(request([noised(name, 2) for name in SITES], 2)).head.noise
    for number in (3, 4):
        refusal = asking.ask(request([noised(name, number) for name in SITES], number)).refusal
        assert (refusal.is_final, refusal.ends_run) == (True, True)
        assert refusal.reason.startswith("privacy budget is spent: epsilon 6.57")
    assert asking.ledger.num_releases() == 2


def test_what_was_spent_before_and_by_other_runs_counts(tmp_path: Path) -> None:
    two = Noise(multiplier=1.0, epsilon=7.0, delta=1e-5)
    other_run = {"run_id": "heart.before"}
    asking = Asking(tmp_path, noise=two)
    digest = digest_of_set("heart.before", 1, [(name, masked_of(name)) for name in SITES])
    body = request([noised(name, **other_run) for name in SITES], **other_run, set_sha256=digest)
    assert asking.ask(body).head.noise
    asking.begin(noise=Noise(multiplier=1.0, epsilon=7.0, delta=1e-5, spent_mu2=1.0))
    assert asking.ask(request([noised(name) for name in SITES])).refusal.ends_run


def test_a_keeper_that_adds_noise_takes_no_update_that_was_not_clipped(tmp_path: Path) -> None:
    asking = Asking(tmp_path, noise=DP)
    assert "the updates were not clipped" in asking.ask(request(SEEDS)).refusal.reason
    assert "it must be from 2^10" in asking.ask(request([noised(name, step=1.0) for name in SITES])).refusal.reason
    fine = [noised(name, step=2.0**-30) for name in SITES]
    assert "leaves the range of 32 bits" in asking.ask(request(fine)).refusal.reason


def test_a_keeper_that_adds_less_noise_than_a_worker_counts_on_gives_nothing(tmp_path: Path) -> None:
    asking = Asking(tmp_path)
    body = request([noised(SITES[0]), noised(SITES[1], noise=5.0), noised(SITES[2], noise=5.0)])
    reason = asking.ask(body).refusal.reason
    assert reason.startswith(f"{SITES[2]} counts on noise of 5 times the clip, and keeper {KEEPER} adds none")
    asking.begin(noise=Noise(multiplier=4.0, epsilon=80.0, delta=1e-5))
    assert "adds only 4: start it with --dp-noise 5" in asking.ask(body).refusal.reason
    asking.begin(noise=Noise(multiplier=6.0, epsilon=8.0, delta=1e-5))
    assert asking.ask(body).head.noise == 6.0 * 0.5 / 2.0**-20


def test_the_budget_that_a_worker_was_told_of_holds_for_its_run_also_where_the_keeper_s_own_is_larger(
    tmp_path: Path,
) -> None:
    """A head may name a small budget to sites with --max-epsilon; only the keeper knows what was given since."""
    asking = Asking(tmp_path, noise=Noise(multiplier=1.0, epsilon=100.0, delta=1e-5))
    told = {"epsilon": 7.0, "delta": 1e-5}
    for number in (1, 2):
        assert asking.ask(request([noised(name, number, **told) for name in SITES], number)).head.noise
    messages = [noised(SITES[0], 3, **told), *(noised(name, 3, epsilon=50.0, delta=1e-5) for name in SITES[1:])]
    refusal = asking.ask(request(messages, 3)).refusal
    assert refusal.reason.startswith(f"{SITES[0]} goes by a budget of epsilon 7 at delta 1e-05; the sums of this run")
    assert not refusal.ends_run
    assert asking.ledger.num_releases() == 2
    other = {"run_id": "heart.after", **told}
    digest = digest_of_set("heart.after", 1, [(name, masked_of(name)) for name in SITES])
    body = request([noised(name, **other) for name in SITES], run_id="heart.after", set_sha256=digest)
    assert asking.ask(body).head.noise


def test_no_budget_covers_a_run_with_sums_without_noise(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    asking = Asking(tmp_path)
    asking.ask(request(SEEDS))
    asking.begin(noise=DP)
    assert "1 sums were given without noise" in caplog.text
    refusal = asking.ask(request([noised(name, 2) for name in SITES], 2)).refusal
    assert refusal.ends_run
    assert "has given 1 sums of this run without noise" in refusal.reason


def test_a_new_ledger_begins_in_the_middle_of_a_run_only_if_it_is_told_to(tmp_path: Path) -> None:
    late = request([seed(name, 3) for name in SITES], 3)
    asking = Asking(tmp_path)
    for body in (late, request([seed(SITES[0], 3)], 3, is_offer=True)):
        refusal = asking.ask(body).refusal
        assert refusal.is_final
        assert f"keeper {KEEPER} has a new ledger, and run {RUN} is at round 3" in refusal.reason
    asking.begin(takes_running=True)
    assert asking.ask(late).head.round == 3


def test_a_ledger_that_knows_a_run_goes_on_with_later_ones(tmp_path: Path) -> None:
    asking = Asking(tmp_path, min_sites=4)
    asking.ask(request(SEEDS[:3]))
    assert asking.ask(request([seed(name, 5) for name in SITES], 5)).head.round == 5


def test_what_does_not_fit_into_memory_is_refused(tmp_path: Path) -> None:
    huge = {"num_words": 2**39}
    reason = Asking(tmp_path).ask(request([seed(name, **huge) for name in SITES], **huge)).refusal.reason
    assert "does not fit into the keeper's memory" in reason
