"""The roster: what can be on it, who must have signed it, and how it changes under a running process."""

import logging
import os
import re
from pathlib import Path

import pytest
import yaml

from console import IdentityError
from identities import InMemory, PrivateKeys, Roster, in_memory
from identities.roster_file import RosterFile

FEDERATION = in_memory(["hospital-a", "hospital-b"], partials=["shard-0"], federation="heart")
FINGERPRINT = FEDERATION.roster.admin_fingerprint


def with_fields(**fields: object) -> Roster:
    return Roster.model_validate(FEDERATION.roster.model_dump() | fields)


def saved(roster: Roster, path: Path, admin: PrivateKeys = FEDERATION.admin) -> Path:
    roster.save(path, admin)
    return path


def checked(path: Path) -> Roster:
    return Roster.read(path).checked(FINGERPRINT)


def test_a_signed_roster_is_read_again(tmp_path: Path) -> None:
    path = saved(FEDERATION.roster, tmp_path / "roster.yaml")
    assert checked(path) == FEDERATION.roster
    lines = path.read_text(encoding="utf-8").splitlines()
    assert re.fullmatch(rf"# signed by {FEDERATION.admin.public.key_id.hex()} [0-9a-f]{{128}}", lines[-1])
    assert yaml.safe_load("\n".join(lines))["sites"].keys() == {"hospital-a", "hospital-b"}


def test_every_flipped_bit_of_a_roster_is_refused(tmp_path: Path) -> None:
    path = saved(FEDERATION.roster, tmp_path / "roster.yaml")
    content = path.read_bytes()
    for bit in range(8 * len(content)):
        flipped = bytearray(content)
        flipped[bit // 8] ^= 1 << bit % 8
        path.write_bytes(flipped)
        with pytest.raises(IdentityError) as caught:
            checked(path)
        assert "\n" not in str(caught.value)


def test_a_roster_of_another_admin_is_refused(tmp_path: Path) -> None:
    other = in_memory(["hospital-a"], federation="heart")
    path = saved(other.roster, tmp_path / "roster.yaml", other.admin)
    with pytest.raises(IdentityError, match=f"another admin's: .*{other.roster.admin_fingerprint}.*{FINGERPRINT}$"):
        checked(path)


def test_a_roster_that_names_an_admin_who_did_not_sign_it_is_refused(tmp_path: Path) -> None:
    """The admin's key is where it is looked for, and another one where YAML finds it."""
    other = in_memory(["hospital-a"], federation="heart")
    body = FEDERATION.roster.text.encode() + f'"admin": {other.roster.admin}\n'.encode()
    signature = FEDERATION.admin.signing.sign(b"fedmq roster|" + body)
    path = tmp_path / "roster.yaml"
    path.write_bytes(body + f"# signed by {FEDERATION.admin.public.key_id.hex()} {signature.hex()}\n".encode())
    with pytest.raises(IdentityError, match="names another admin"):
        checked(path)


def test_a_roster_without_signature_is_refused_with_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "roster.yaml"
    path.write_text(FEDERATION.roster.text, encoding="utf-8")
    with pytest.raises(IdentityError, match=r"is not signed; .*fl-keys sign"):
        checked(path)
    with pytest.raises(IdentityError, match="No such file"):
        checked(tmp_path / "other.yaml")


def test_nobody_but_its_admin_signs_a_roster() -> None:
    with pytest.raises(IdentityError, match="the roster names the admin key"):
        FEDERATION.roster.signed(FEDERATION.keys["hospital-a"])


@pytest.mark.parametrize(
    ("names", "problem"),
    [
        (["hospital", "hospital-a"], "a worker named hospital-a could be of site hospital-a or of site hospital"),
        (["a-b-c", "a"], "could be of site a-b-c or of site a:"),
    ],
)
def test_a_site_whose_name_begins_another_s_is_refused(names: list[str], problem: str) -> None:
    with pytest.raises(IdentityError, match=problem):
        in_memory(names)


def test_sites_whose_names_only_look_alike_are_told_apart() -> None:
    assert len(in_memory(["hospital", "hospitals", "hospital_a", "worker-1", "worker-10"]).roster.sites) == 5


def test_a_key_that_two_have_is_refused() -> None:
    key = FEDERATION.roster.sites["hospital-a"]
    for fields in (
        {"sites": {"a": key, "b": key}},
        {"partials": {"shard-0": key}},
        {"admin": key},
        {"keepers": {"ethics": FEDERATION.roster.aggregators["aggregator"].model_dump() | {"signing_key": "ab" * 32}}},
    ):
        with pytest.raises(ValueError, match="have the same key"):
            with_fields(**fields)


def test_updates_are_sealed_to_the_first_aggregator_unless_said_otherwise() -> None:
    roster = FEDERATION.roster
    assert roster.sealed_to == "aggregator"
    assert roster.opening_key is not None
    assert roster.opening_key.hex() == roster.aggregators["aggregator"].opening_key
    standby = PrivateKeys.generate("aggregator", "standby")
    two = roster.with_members([standby.public])
    assert two.sealed_to == "aggregator"
    assert two.with_members(sealed_to="standby").opening_key == bytes.fromhex(standby.public.opening_key or "")
    assert two.without(["aggregator"], []).sealed_to == "standby"
    assert roster.without(["aggregator"], []).opening_key is None
    with pytest.raises(IdentityError, match="none of the aggregators"):
        roster.with_members(sealed_to="hospital-a")


def test_each_change_has_the_next_version_and_revoking_remembers_the_key() -> None:
    roster = FEDERATION.roster
    key_id = FEDERATION.keys["hospital-a"].public.key_id
    less = roster.without(["hospital-a"], [])
    assert less.version == roster.version + 1
    assert (set(less.sites), less.revoked) == ({"hospital-b"}, (key_id.hex(),))
    with pytest.raises(IdentityError, match="is revoked; make a new one"):
        less.with_members([FEDERATION.keys["hospital-a"].public])
    again = PrivateKeys.generate("worker", "hospital-a")
    assert less.with_members([again.public]).sites["hospital-a"] == again.public.signing_key
    assert roster.without([], [key_id]) == less
    with pytest.raises(IdentityError, match="nobody named hospital-c"):
        roster.without(["hospital-c"], [])


def test_a_name_does_not_get_another_key_by_the_way() -> None:
    imposter = PrivateKeys.generate("worker", "hospital-a")
    with pytest.raises(IdentityError, match="with another key; revoke that one first: fl-keys revoke hospital-a"):
        FEDERATION.roster.with_members([imposter.public])
    same = FEDERATION.roster.with_members([FEDERATION.keys["hospital-a"].public])
    assert same.sites == FEDERATION.roster.sites


def test_an_admin_s_key_is_not_listed() -> None:
    with pytest.raises(IdentityError, match="signs a roster"):
        FEDERATION.roster.with_members([FEDERATION.admin.public])


def test_members_are_all_whose_keys_count() -> None:
    assert [(member.role, member.name) for member in FEDERATION.roster.members()] == [
        ("aggregator", "aggregator"),
        ("partial", "shard-0"),
        ("worker", "hospital-a"),
        ("worker", "hospital-b"),
    ]
    revoked = with_fields(revoked=(FEDERATION.keys["hospital-b"].public.key_id.hex(),))
    assert [member.name for member in revoked.members()] == ["aggregator", "shard-0", "hospital-a"]


# -- a file under a running process -----------------------------------------------------------------------------


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


class Watched:
    """A roster file, and a process that reads it."""

    def __init__(self, path: Path) -> None:
        self.path, self.clock = saved(FEDERATION.roster, path), Clock()
        self.file = RosterFile(path, FINGERPRINT, clock=self.clock)

    def after_a_second(self) -> Roster:
        self.clock.now += 1.0
        return self.file.current()


@pytest.fixture
def watched(tmp_path: Path) -> Watched:
    return Watched(tmp_path / "roster.yaml")


def test_a_changed_roster_counts_within_a_second(watched: Watched) -> None:
    newer = FEDERATION.roster.without(["hospital-a"], [])
    saved(newer, watched.path)
    assert watched.file.current() == FEDERATION.roster  # not looked at again so soon
    assert watched.after_a_second() == newer


def test_the_file_is_looked_at_once_a_second_and_read_when_it_changes(
    watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks, reads = [], []
    stat, open_ = Path.stat, Path.open
    monkeypatch.setattr(Path, "stat", lambda path, **given: looks.append(path) or stat(path, **given))
    monkeypatch.setattr(Path, "open", lambda path, *given: reads.append(path) or open_(path, *given))
    for _ in range(100):
        watched.file.current()
    assert (looks, reads) == ([], [])
    for _ in range(100):
        watched.clock.now += 0.1
        watched.file.current()
    assert 9 <= len(looks) <= 10
    assert reads == []


def refused(watched: Watched, caplog: pytest.LogCaptureFixture) -> str:
    """The one warning, after two looks; the old roster still counts."""
    caplog.clear()
    with caplog.at_level(logging.INFO):
        assert watched.after_a_second() == FEDERATION.roster
        assert watched.after_a_second() == FEDERATION.roster
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "\n" not in record.getMessage()
    assert record.getMessage().endswith(f"; version {FEDERATION.roster.version} of the roster goes on counting")
    return record.getMessage()


def test_a_roster_that_cannot_be_used_is_refused_and_the_old_one_stays(
    watched: Watched, caplog: pytest.LogCaptureFixture
) -> None:
    watched.path.write_text(FEDERATION.roster.text, encoding="utf-8")
    assert "is not signed" in refused(watched, caplog)
    other: InMemory = in_memory(["a"])
    saved(other.roster, watched.path, other.admin)
    assert "another admin's" in refused(watched, caplog)
    saved(with_fields(federation="lung", version=9), watched.path)
    assert "the roster of lung, and this is heart" in refused(watched, caplog)
    saved(with_fields(min_sites=2), watched.path)
    assert "under the same version" in refused(watched, caplog)
    watched.path.unlink()
    assert "No such file" in refused(watched, caplog)
    watched.path.write_bytes(b"\xff\xfe")
    assert "no text" in refused(watched, caplog)


def test_an_older_roster_is_refused(watched: Watched, caplog: pytest.LogCaptureFixture) -> None:
    newer = FEDERATION.roster.without(["hospital-a"], [])
    saved(newer, watched.path)
    assert watched.after_a_second() == newer
    saved(FEDERATION.roster, watched.path)
    assert watched.after_a_second() == newer
    assert "older than the one that counts" in caplog.text


def test_the_same_roster_written_again_is_no_news(watched: Watched, caplog: pytest.LogCaptureFixture) -> None:
    os.utime(watched.path, ns=(1, 1))
    with caplog.at_level(logging.INFO):
        assert watched.after_a_second() == FEDERATION.roster
    assert not caplog.records


def test_a_clock_that_is_set_back_does_not_stop_the_looking(watched: Watched) -> None:
    newer = FEDERATION.roster.without(["hospital-a"], [])
    saved(newer, watched.path)
    watched.clock.now -= 3600
    assert watched.file.current() == newer


def test_a_process_does_not_start_with_a_roster_that_cannot_be_used(tmp_path: Path) -> None:
    with pytest.raises(IdentityError, match="No such file"):
        RosterFile(tmp_path / "roster.yaml", FINGERPRINT, clock=Clock())


@pytest.mark.parametrize("name", ["hospital-a", "hospital-b-7", "hospital-a-7-2"])
def test_a_roster_admits_its_sites_and_their_workers(name: str) -> None:
    assert FEDERATION.roster.admits(name)


@pytest.mark.parametrize("name", ["hospital", "hospital-aa", "hospital-c", "aggregator", "shard-0", ""])
def test_a_roster_admits_no_other_names(name: str) -> None:
    assert not FEDERATION.roster.admits(name)


def test_a_site_whose_key_is_revoked_is_not_admitted_even_where_it_is_still_listed() -> None:
    key_id = FEDERATION.keys["hospital-a"].public.key_id
    listed = Roster.model_validate(FEDERATION.roster.model_dump() | {"revoked": (key_id.hex(),)})
    assert [listed.admits(name) for name in ("hospital-a", "hospital-a-7", "hospital-b")] == [False, False, True]


def test_keys_count_while_none_is_revoked_and_the_last_is_on_the_roster() -> None:
    site, other = FEDERATION.keys["hospital-a"].public.key_id, b"12345678"
    assert FEDERATION.roster.admits("hospital-a", [site])
    assert FEDERATION.roster.admits("hospital-a-7", [other, site])
    assert not FEDERATION.roster.admits("hospital-a-7", [other])
    assert not FEDERATION.roster.without([], [other]).admits("hospital-a-7", [other, site])
