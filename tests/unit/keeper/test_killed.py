"""A keeper that ends at any point of an answer: the same request gets the same bytes, and is charged once."""

from pathlib import Path
from typing import Any

import pytest
from unit.keeper.asking import SITES, Asking, request, seed

from broker.memory import MemoryTransport
from keeper import Noise
from keeper.answers import Answers
from keeper.expanding import MaskSum
from keeper.ledger import Ledger

DP = Noise(multiplier=5.0, epsilon=8.0, delta=1e-5)
BODY = request([seed(name, clip=0.5, step=2.0**-20) for name in SITES])
OTHER = request([seed(name, clip=0.5, step=2.0**-20) for name in SITES[:3]])


class Killed(BaseException):
    """Nothing in between catches it."""


POINTS = {
    "before anything is expanded": (MaskSum, "hold", "before", 0),
    "before the transaction": (Ledger, "charge", "before", 0),
    "within the transaction": (Ledger, "charge", "after", 0),
    "after the transaction": (MaskSum, "noised", "before", 1),
    "before the blob": (MemoryTransport, "write_blob", "before", 1),
    "before the answer": (Answers, "_send", "before", 1),
    "before the ack": (MemoryTransport, "ack", "before", 1),
    "after the ack": (MemoryTransport, "ack", "after", 1),
}


@pytest.mark.parametrize("point", POINTS)
def test_a_killed_keeper_gives_the_same_sum_and_charges_it_once(
    point: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = expected_answer(tmp_path / "undisturbed")
    asking = Asking(tmp_path / "killed", noise=DP, inline_cap=1000)
    same_secret(asking, tmp_path / "undisturbed")
    owner, name, when, num_charged = POINTS[point]
    function = getattr(owner, name)

    def kills(*args: Any, **kwargs: Any) -> Any:
        if when == "after":
            function(*args, **kwargs)
        raise Killed

    asking.send(BODY)
    with monkeypatch.context() as armed:
        armed.setattr(owner, name, kills)
        with pytest.raises(Killed):
            asking.keeper.step()
    assert asking.ledger.num_releases() == num_charged
    asking.begin()
    asking.steps()
    answers = asking.answers()
    assert answers
    assert all(answer == expected for answer in answers)
    assert asking.ask(BODY) == expected
    assert asking.ask(OTHER).refusal.is_final
    assert asking.ledger.num_releases() == 1


def expected_answer(state: Path) -> Any:
    return Asking(state, noise=DP, inline_cap=1000).ask(BODY)


def same_secret(asking: Asking, of: Path) -> None:
    """The keeper's noise comes from a secret of its own, which another keeper does not have."""
    asking.transport.close()
    asking.ledger.close()
    for path in asking.state.iterdir():
        path.unlink()
    ledger = Ledger(of)
    ledger.close()
    (asking.state / "noise.secret").write_bytes(ledger.noise_secret)
    (asking.state / "noise.secret").chmod(0o600)
    asking.begin()


def test_a_keeper_that_is_told_to_stop_in_mid_expansion_leaves_the_request_to_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asking = Asking(tmp_path)
    asking.send(BODY)
    asking.keeper.stop()
    asking.keeper.step()
    assert asking.answers() == []
    asking.begin()
    asking.steps()
    (answer,) = asking.answers()
    assert answer.head.num_updates == 4
