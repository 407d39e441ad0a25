"""Keys in files: who can read them, what others get of them, and what people compare."""

import os
import re
import stat
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from console import ExitCode, IdentityError
from identities import PrivateKeys, PublicKeys, fingerprint_given
from identities.private_keys import read_opening_key
from identities.public_keys import fingerprint_of, key_id_of

COUNTED = bytes(range(32))
ED25519_PUBLIC = "03a107bff3ce10be1d70dd18e74bc09967e4d6309ba50d5f1ddc8664125531b8"
X25519_PUBLIC = "8f40c5adb68f25624ae5b214ea767a6ec94d829d3d7b5e1ad1ba6f3e2138285f"


def counted_keys(name: str = "aggregator") -> PrivateKeys:
    return PrivateKeys.of(
        "aggregator", name, Ed25519PrivateKey.from_private_bytes(COUNTED), X25519PrivateKey.from_private_bytes(COUNTED)
    )


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_the_public_keys_and_the_signature_of_the_key_00_to_1f_are_the_golden_ones() -> None:
    keys = counted_keys()
    assert (keys.public.signing_key, keys.public.opening_key) == (ED25519_PUBLIC, X25519_PUBLIC)
    assert keys.signing.sign(b"fedmq").hex() == (
        "637823be5912f489e18edfdb5b117b9f6cfc4cbdbe1d8cf159b59b9b814be52b"
        "00795a698060a2bd8dfaf999ff3a62baf15bed7bda43e004caca0585decff306"
    )


def test_a_key_id_is_the_beginning_of_the_hash_and_the_fingerprint_begins_with_it() -> None:
    public = bytes.fromhex(ED25519_PUBLIC)
    assert key_id_of(public).hex() == "56475aa75463474c"
    assert fingerprint_of(public) == "5647-5aa7-5463-474c-0285-df5d-bf2b-cab7"
    assert counted_keys().public.fingerprint == fingerprint_of(public, bytes.fromhex(X25519_PUBLIC))


@pytest.mark.parametrize("role", ["worker", "aggregator", "partial", "keeper", "admin"])
def test_saved_keys_are_read_again(role: str, tmp_path: Path) -> None:
    keys = PrivateKeys.generate(role, "one")  # type: ignore[arg-type]
    path = keys.save(tmp_path / "keys")
    again = PrivateKeys.read(path)
    assert path == tmp_path / "keys" / "one.key"
    assert again.public == keys.public == PublicKeys.read(tmp_path / "keys" / "one.pub")
    assert again.signing.private_bytes_raw() == path.read_bytes() == keys.signing.private_bytes_raw()
    assert (again.opening is not None) == (role in ("aggregator", "keeper"))


def test_files_are_for_their_owner_alone_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        counted_keys().save(tmp_path / "keys")
    finally:
        os.umask(before)
    assert mode_of(tmp_path / "keys") == 0o700
    assert mode_of(tmp_path / "keys" / "aggregator.key") == 0o600
    assert mode_of(tmp_path / "keys" / "aggregator.opening.key") == 0o600
    opening = read_opening_key(tmp_path / "keys" / "aggregator.opening.key")
    assert opening.private_bytes_raw() == COUNTED


@pytest.mark.parametrize("there", ["aggregator.key", "aggregator.opening.key", "aggregator.pub"])
def test_nothing_is_overwritten(there: str, tmp_path: Path) -> None:
    (tmp_path / there).write_text("mine", encoding="utf-8")
    with pytest.raises(IdentityError, match=re.escape(there)):
        counted_keys().save(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [there]
    assert (tmp_path / there).read_text(encoding="utf-8") == "mine"


def test_a_file_that_appears_meanwhile_is_not_overwritten_either(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "aggregator.key").write_text("mine", encoding="utf-8")
    monkeypatch.setattr(Path, "exists", lambda path: False)
    with pytest.raises(IdentityError, match="File exists"):
        counted_keys().save(tmp_path)
    assert (tmp_path / "aggregator.key").read_text(encoding="utf-8") == "mine"


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620])
def test_a_key_that_others_can_read_is_refused_with_what_to_do(mode: int, tmp_path: Path) -> None:
    path = counted_keys().save(tmp_path)
    path.chmod(mode)
    with pytest.raises(IdentityError, match=rf"mode is {mode:04o}\); use: chmod 600 {re.escape(str(path))}$") as caught:
        PrivateKeys.read(path)
    assert caught.value.exit_code == ExitCode.USAGE


def test_keys_that_do_not_belong_together_are_refused(tmp_path: Path) -> None:
    path = PrivateKeys.generate("worker", "a").save(tmp_path)
    path.write_bytes(COUNTED)
    with pytest.raises(IdentityError, match=r"a\.pub is not the public part of"):
        PrivateKeys.read(path)
    path.write_bytes(b"short")
    with pytest.raises(IdentityError, match="expected exactly 32 bytes"):
        PrivateKeys.read(path)
    with pytest.raises(IdentityError, match="No such file"):
        PrivateKeys.read(tmp_path / "b.key")
    with pytest.raises(IdentityError, match=r"expected NAME\.key"):
        PrivateKeys.read(tmp_path / "a.pub")


def test_no_private_key_is_in_the_text_of_an_object(tmp_path: Path) -> None:
    shown = repr(counted_keys())
    assert COUNTED.hex() not in shown
    assert "PrivateKey object" not in shown


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("role: worker\nname: a\n", "signing_key: Field required"),
        (f"role: worker\nname: ../a\nsigning_key: '{ED25519_PUBLIC}'\n", "name: "),
        (f"role: root\nname: a\nsigning_key: '{ED25519_PUBLIC}'\n", "role: "),
        (f"role: worker\nname: a\nsigning_key: '{ED25519_PUBLIC[:-1]}'\n", "signing_key: "),
        (f"role: worker\nname: a\nsigning_key: '{ED25519_PUBLIC}'\nopening_key: '{X25519_PUBLIC}'\n", "no other role"),
        (f"role: keeper\nname: a\nsigning_key: '{ED25519_PUBLIC}'\n", "have an opening_key"),
        (f"role: keeper\nname: a\nsigning_key: '{ED25519_PUBLIC}'\nopening_key: '{'00' * 32}'\n", "keeps no secret"),
        ("!!python/object:os.system {}", "not valid YAML"),
        ("- 1", "valid dictionary"),
        ("", "valid dictionary"),
    ],
)
def test_a_public_file_that_is_wrong_is_refused_in_one_line(text: str, problem: str, tmp_path: Path) -> None:
    path = tmp_path / "a.pub"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(IdentityError, match=re.escape(problem)) as caught:
        PublicKeys.read(path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


def test_a_file_that_is_no_text_or_too_long_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.pub"
    path.write_bytes(b"\xff")
    with pytest.raises(IdentityError, match="no text"):
        PublicKeys.read(path)
    path.write_bytes(bytes(5 * 2**20))
    with pytest.raises(IdentityError, match="no file of fl-keys"):
        PublicKeys.read(path)


def test_the_roster_key_is_given_as_fingerprint_or_as_file(tmp_path: Path) -> None:
    admin = PrivateKeys.generate("admin", "admin")
    admin.save(tmp_path)
    fingerprint = admin.public.fingerprint
    assert fingerprint_given(fingerprint) == fingerprint
    assert fingerprint_given(fingerprint.upper().replace("-", " ")) == fingerprint
    assert fingerprint_given(str(tmp_path / "admin.pub")) == fingerprint
    for wrong in (fingerprint[:-1], "", "nowhere.pub"):
        with pytest.raises(IdentityError, match="neither a fingerprint"):
            fingerprint_given(wrong)
    PrivateKeys.generate("worker", "a").save(tmp_path)
    with pytest.raises(IdentityError, match="signed by an admin's key"):
        fingerprint_given(str(tmp_path / "a.pub"))
