"""The secret of the noise: made once, kept to its owner, told from another by a fingerprint."""

import stat
import threading
from pathlib import Path

import pytest

from console import IdentityError
from privacy import fingerprint_of, noise_secret


def test_a_secret_is_made_once_for_its_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "state" / "noise.secret"
    first = noise_secret(path)
    assert len(first) == 32
    assert noise_secret(path) == first
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [found.name for found in path.parent.iterdir()] == [path.name]
    assert noise_secret(tmp_path / "other.secret") != first


def test_several_that_make_it_at_a_time_get_the_same(tmp_path: Path) -> None:
    made: list[bytes] = []
    start = threading.Barrier(8)

    def make() -> None:
        start.wait()
        made.append(noise_secret(tmp_path / "noise.secret"))

    threads = [threading.Thread(target=make) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 8
    assert set(made) == {noise_secret(tmp_path / "noise.secret")}


def test_a_secret_that_others_can_read_or_that_is_cut_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "noise.secret"
    secret = noise_secret(path)
    path.chmod(0o640)
    with pytest.raises(IdentityError, match=r"others can read .*chmod 600"):
        noise_secret(path)
    path.chmod(0o600)
    path.write_bytes(secret[:31])
    with pytest.raises(IdentityError, match="expected exactly 32 bytes"):
        noise_secret(path)


def test_a_place_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(IdentityError, match="cannot write"):
        noise_secret(tmp_path / "file" / "noise.secret")


def test_a_fingerprint_tells_secrets_apart_and_is_not_part_of_one(tmp_path: Path) -> None:
    secret = noise_secret(tmp_path / "noise.secret")
    assert fingerprint_of(secret) == fingerprint_of(bytes(secret))
    assert fingerprint_of(secret) != fingerprint_of(bytes(32))
    assert fingerprint_of(secret) not in secret.hex()
