"""Who may steer a run that has a roster: its operators, each command once."""

import secrets
import time
from pathlib import Path

import pytest
from unit.aggregator.embedded_run import EmbeddedRun, StateTask, state_of
from unit.members import FEDERATION, FOREIGN, SITES, UNSIGNED, member

from broker.wire.codec import encode
from broker.wire.messages import Command
from broker.wire.signatures import Trust
from identities.in_memory import AGGREGATOR
from identities.private_keys import PrivateKeys
from identities.roster_file import FixedRoster
from identities.trust import Verified

WARD = PrivateKeys.generate("operator", "ward")
ROSTER = FixedRoster(FEDERATION.roster.with_members([WARD.public]))
STRANGER = PrivateKeys.generate("operator", "ward")


def of(keys: PrivateKeys) -> Verified:
    return Verified(ROSTER, keys, clock=time.time)


@pytest.fixture
def run(tmp_path: Path) -> EmbeddedRun:
    aggregator = member(AGGREGATOR, trust=of(FEDERATION.keys[AGGREGATOR]))
    return EmbeddedRun.make(tmp_path / "run", StateTask(state_of(weight=[0.0])), membership=aggregator).start()


def command(run: EmbeddedRun, text: str, trust: Trust) -> bytes:
    verb, *words = text.split()
    run_id = run.aggregator._run.run.run_id
    return encode(
        Command(id=secrets.token_hex(16), run_id=run_id, verb=verb, words=tuple(words), sent_at=1.0), trust=trust
    )


def tell(run: EmbeddedRun, body: bytes) -> None:
    run.site.send_command(body)
    run.settle()


def taken(run: EmbeddedRun) -> list[tuple[object, ...]]:
    return run.query("SELECT sender, text, is_accepted FROM commands ORDER BY number")


def test_what_an_operator_signs_is_done_and_recorded_with_the_name(run: EmbeddedRun) -> None:
    tell(run, command(run, "set lr=0.01", of(WARD)))
    assert taken(run) == [("operator ward", "set lr=0.01", 1)]
    assert not run.reasons


@pytest.mark.parametrize(
    ("trust", "reason"),
    [
        (of(FEDERATION.keys[SITES[0]]), f"worker {SITES[0]} may not send a command"),
        (of(FEDERATION.keys[AGGREGATOR]), "aggregator aggregator may not send a command"),
        (of(STRANGER), f"nobody on the roster has key {STRANGER.public.key_id.hex()}"),
        (FOREIGN.trust(SITES[0]), f"nobody on the roster has key {FOREIGN.keys[SITES[0]].public.key_id.hex()}"),
        (UNSIGNED, "the message is not signed, and the roster asks for signatures"),
    ],
    ids=["site", "aggregator", "stranger of that name", "other federation", "unsigned"],
)
def test_what_nobody_may_ask_who_signed_it_is_set_aside_with_one_line(
    trust: Trust, reason: str, run: EmbeddedRun
) -> None:
    tell(run, command(run, "set lr=0.01", trust))
    assert run.reasons == [reason]
    assert not taken(run)


def test_a_command_that_was_changed_on_its_way_is_set_aside(run: EmbeddedRun) -> None:
    tell(run, command(run, "set lr=0.01", of(WARD)).replace(b"lr=0.01", b"lr=9.01"))
    (reason,) = run.reasons
    assert reason.startswith("the signature does not fit: this command was changed on its way")
    assert not taken(run)


def test_a_command_that_is_sent_again_after_a_newer_one_does_not_undo_that(run: EmbeddedRun) -> None:
    older = command(run, "set lr=0.01", of(WARD))
    tell(run, older)
    tell(run, command(run, "set lr=0.2", of(WARD)))
    again = run.crash().start()
    for each in (older, older):
        tell(again, each)
    assert [text for _, text, _ in taken(again)] == ["set lr=0.01", "set lr=0.2"]
    assert again.aggregator._run.steering.standing.settings(2) == {"lr": "0.2"}
    assert not again.broker.queues["commands"]
