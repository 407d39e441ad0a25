"""The keeper's ledger: what is in it stays, excludes what contradicts it, and is for its owner's eyes alone."""

import stat
from dataclasses import replace
from pathlib import Path

import pytest

from console import StateError
from keeper.ledger import LEDGER, NOISE_SECRET, Charge, Ledger

CHARGE = Charge(
    run_id="run.1",
    round=1,
    set_sha256="aa" * 32,
    seeds_sha256="bb" * 32,
    num_updates=2,
    num_sites=2,
    noise=5.0,
    clip=0.5,
    step=2.0**-20,
    charged_at=1.8e9,
)


def test_what_was_charged_is_there_in_the_next_process(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    assert ledger.is_blank()
    with ledger.transaction():
        ledger.hear_of("run.1", 1, now=1.8e9)
        ledger.charge(CHARGE, ["a", "b"])
    secret = ledger.noise_secret
    ledger.close()
    again = Ledger(tmp_path)
    assert again.charged("run.1", 1) == CHARGE
    assert again.charged("run.1", 2) is None
    assert again.used("run.1", 1) == {"a", "b"}
    assert again.used("run.1", 2) == set()
    assert (again.noises(), again.num_without_noise(), again.num_releases()) == ({5.0: 1}, 0, 1)
    assert not again.is_blank()
    assert again.noise_secret == secret


def test_a_second_set_for_a_round_or_a_worker_twice_takes_nothing_along(tmp_path: Path) -> None:
    """Also where two processes have one ledger: the rows exclude each other, whatever each believes."""
    one, other = Ledger(tmp_path), Ledger(tmp_path)
    with one.transaction():
        one.charge(CHARGE, ["a", "b"])
    with pytest.raises(StateError, match="UNIQUE"), other.transaction():
        other.charge(replace(CHARGE, set_sha256="cc" * 32), ["c"])
    with pytest.raises(StateError, match="UNIQUE"), other.transaction():
        other.charge(replace(CHARGE, round=2), ["c", "c"])
    assert other.charged("run.1", 1) == CHARGE
    assert other.charged("run.1", 2) is None
    assert other.used("run.1", 2) == set()


def test_a_transaction_that_fails_half_way_leaves_nothing(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)

    def fails() -> None:
        with ledger.transaction():
            ledger.charge(CHARGE, ["a", "b"])
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fails()
    assert ledger.num_releases() == 0


def test_a_secret_of_noise_that_is_gone_or_another_is_noticed(tmp_path: Path) -> None:
    Ledger(tmp_path).close()
    path = tmp_path / NOISE_SECRET
    secret = path.read_bytes()
    path.unlink()
    with pytest.raises(StateError, match="is gone: without it, no sum that was noised can be given again"):
        Ledger(tmp_path)
    assert not path.exists()
    path.write_bytes(secret[::-1])
    path.chmod(0o600)
    with pytest.raises(StateError, match=r"is not the one that keeper\.db began with"):
        Ledger(tmp_path)
    path.write_bytes(secret)
    assert Ledger(tmp_path).noise_secret == secret


def test_the_secret_is_for_its_owner_alone_and_so_is_a_new_folder(tmp_path: Path) -> None:
    Ledger(tmp_path / "new")
    assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o700
    assert stat.S_IMODE((tmp_path / "new" / NOISE_SECRET).stat().st_mode) == 0o600


@pytest.mark.parametrize("content", [b"no database at all, but long enough for one" * 50, None])
def test_a_ledger_that_cannot_be_used_is_said_in_one_line(tmp_path: Path, content: bytes | None) -> None:
    if content is None:
        (tmp_path / LEDGER).mkdir()
    else:
        (tmp_path / LEDGER).write_bytes(content)
    with pytest.raises(StateError, match="cannot be used as a keeper's state"):
        Ledger(tmp_path)


def test_a_ledger_of_a_newer_fedmq_is_left_alone(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    ledger._db.execute("PRAGMA user_version = 9")
    ledger.close()
    with pytest.raises(StateError, match="newer fedmq"):
        Ledger(tmp_path)
