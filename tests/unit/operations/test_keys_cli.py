"""``fl-keys``: from nothing to a roster, and what goes wrong on the way."""

import base64
import hashlib
import json
import re
from pathlib import Path

import pytest

from console import ExitCode
from identities import Certificate, PrivateKeys, PublicKeys, Roster
from operations.keys_cli import main
from operations.permissions import definitions, permission_lines


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def done(*argv: str) -> None:
    assert main(argv) == ExitCode.OK


def problem(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    """The one line with which the command ends."""
    capsys.readouterr()
    assert main(argv) == ExitCode.USAGE
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("fl-keys: ")
    assert said.err.count("\n") == 1
    return said.err


def begun() -> None:
    """An admin with the keys of an aggregator and two sites, and the roster."""
    done("new", "admin", "--role", "admin")
    done("new", "aggregator", "--role", "aggregator", "--keys", "at-aggregator")
    done("new", "hospital-a", "--role", "worker", "--keys", "at-a")
    done("new", "hospital-b", "--role", "worker", "--keys", "at-b")
    sent = ("at-aggregator/aggregator.pub", "at-a/hospital-a.pub", "at-b/hospital-b.pub")
    done("roster", "--federation", "heart", *sent)


def roster() -> Roster:
    return Roster.read(Path("roster.yaml")).checked(PublicKeys.read(Path("keys/admin.pub")).fingerprint)


def test_an_admin_and_two_sites_need_one_command_each_and_one_for_the_roster() -> None:
    begun()
    there = roster()
    assert (there.federation, there.version, there.sealed_to) == ("heart", 1, "aggregator")
    assert list(there.sites) == ["hospital-a", "hospital-b"]


def test_a_fingerprint_is_printed_where_a_key_is_made_and_where_it_is_enrolled(
    capsys: pytest.CaptureFixture[str],
) -> None:
    done("new", "admin", "--role", "admin")
    capsys.readouterr()
    done("new", "hospital-a", "--role", "worker")
    made = re.findall(r"(?:[0-9a-f]{4}-){7}[0-9a-f]{4}", capsys.readouterr().out)
    done("roster", "keys/hospital-a.pub", "--federation", "heart")
    enrolled = capsys.readouterr().out
    assert len(made) == 1
    assert re.search(rf"worker +hospital-a +[0-9a-f]{{16}} +{made[0]}\n", enrolled)
    done("show", "keys/hospital-a.pub", "keys/admin.pub")
    assert made[0] in capsys.readouterr().out


def test_a_key_is_never_overwritten(capsys: pytest.CaptureFixture[str]) -> None:
    done("new", "hospital-a", "--role", "worker")
    before = Path("keys/hospital-a.key").read_bytes()
    assert "never overwritten" in problem(capsys, "new", "hospital-a", "--role", "worker")
    assert Path("keys/hospital-a.key").read_bytes() == before


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["new"], "new takes one name"),
        (["new", "a", "b"], "new takes one name"),
        (["new", "a", "--role", "onlooker"], "needs no key"),
        (["permissions", "a", "--role", "admin"], "no user of the broker"),
        (["permissions"], "permissions takes at least one argument"),
        (["permissions", "a", "a-b", "--elastic"], "could speak for 'a-b'"),
        (["new", "../a", "--role", "worker"], "'../a' is no name"),
        (["show"], "show takes at least one argument"),
        (["show", "nothing.pub"], "nothing.pub: No such file"),
        (["show", "keys/a.key"], "is private, and is not shown"),
        (["roster", "roster.yaml"], "roster takes public keys' files"),
        (["roster"], "no keys/admin.key: name the admin's private key"),
        (["sign", "a.pub"], "signed with its site's key: --key"),
        (["revoke", "a"], "no keys/admin.key"),
        (["sign", "a.pub", "--days", "0"], "--days: "),
    ],
)
def test_what_makes_no_sense_is_said_in_one_line(
    argv: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert said in problem(capsys, *argv)


def test_the_first_roster_needs_the_federation_s_name(capsys: pytest.CaptureFixture[str]) -> None:
    done("new", "admin", "--role", "admin")
    done("new", "hospital-a", "--role", "worker")
    assert "--federation NAME" in problem(capsys, "roster", "keys/hospital-a.pub")
    done("roster", "keys/hospital-a.pub", "--federation", "heart")
    assert "the roster of heart" in problem(capsys, "roster", "keys/hospital-a.pub", "--federation", "lung")


def test_only_an_admin_s_key_signs_the_roster(capsys: pytest.CaptureFixture[str]) -> None:
    begun()
    assert "an admin's signs the roster" in problem(capsys, "revoke", "hospital-b", "--key", "at-a/hospital-a.key")
    done("new", "other", "--role", "admin")
    assert "another admin's" in problem(capsys, "revoke", "hospital-b", "--key", "keys/other.key")
    assert roster().version == 1


def test_flags_may_stand_before_between_and_after_names() -> None:
    begun()
    done("--roster", "roster.yaml", "revoke", "--key", "keys/admin.key", "hospital-b")
    assert list(roster().sites) == ["hospital-a"]


def test_revoking_takes_names_key_ids_and_files(capsys: pytest.CaptureFixture[str]) -> None:
    begun()
    ids = [PublicKeys.read(Path(path)).key_id.hex() for path in ("at-a/hospital-a.pub", "at-b/hospital-b.pub")]
    done("new", "hospital-a-7", "--role", "worker")
    elastic = PublicKeys.read(Path("keys/hospital-a-7.pub")).key_id.hex()
    capsys.readouterr()
    done("revoke", "hospital-b", "keys/hospital-a-7.pub", "0123456789abcdef")
    said = capsys.readouterr().out
    there = roster()
    assert there.version == 2
    assert list(there.sites) == ["hospital-a"]
    assert set(there.revoked) == {ids[1], elastic, "0123456789abcdef"}
    assert f"key {ids[1]}, that of worker hospital-b" in said
    assert f"key {elastic}, which was not on the roster" in said
    done("revoke", ids[0].upper())
    assert list(roster().sites) == []
    assert "nobody named hospital-c" in problem(capsys, "revoke", "hospital-c")


def test_a_key_is_replaced_by_revoking_it_and_enrolling_the_new_one(capsys: pytest.CaptureFixture[str]) -> None:
    begun()
    done("new", "hospital-a", "--role", "worker", "--keys", "at-a/new")
    assert "revoke that one first" in problem(capsys, "roster", "at-a/new/hospital-a.pub")
    done("revoke", "hospital-a")
    done("roster", "at-a/new/hospital-a.pub")
    assert roster().sites["hospital-a"] == PublicKeys.read(Path("at-a/new/hospital-a.pub")).signing_key
    assert "is revoked" in problem(capsys, "roster", "at-a/hospital-a.pub")


def test_a_site_admits_a_worker_without_the_admin(capsys: pytest.CaptureFixture[str]) -> None:
    begun()
    done("new", "hospital-a-7", "--role", "worker", "--keys", "at-7")
    capsys.readouterr()
    done("sign", "at-7/hospital-a-7.pub", "--key", "at-a/hospital-a.key", "--days", "2")
    certificate = Certificate.read(Path("at-7/hospital-a-7.cert"))
    site = PrivateKeys.read(Path("at-a/hospital-a.key"))
    certificate.verify("hospital-a", site.signing.public_key())
    assert certificate.valid_until - certificate.valid_from == 2 * 86400 + 300
    assert certificate.validity in capsys.readouterr().out
    done("show", "at-7/hospital-a-7.cert")
    assert "worker hospital-a-7" in capsys.readouterr().out
    assert "can admit workers named hospital-b" in problem(
        capsys, "sign", "at-7/hospital-a-7.pub", "--key", "at-b/hospital-b.key"
    )


def test_showing_a_roster_tells_whose_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    begun()
    capsys.readouterr()
    done("show", "roster.yaml")
    assert "compare the fingerprint with your admin's" in capsys.readouterr().out
    done("show", "roster.yaml", "--roster-key", "keys/admin.pub")
    said = capsys.readouterr().out
    assert "only the fingerprint can say" not in said
    assert re.findall(r"^  (\w+) +(\S+) +[0-9a-f]{16} ", said, re.MULTILINE) == [
        ("aggregator", "aggregator"),
        ("worker", "hospital-a"),
        ("worker", "hospital-b"),
    ]
    wrong = "-".join(["0123"] * 8)
    assert "another admin's" in problem(capsys, "show", "roster.yaml", "--roster-key", wrong)


def test_a_roster_that_was_changed_by_hand_is_refused_until_it_is_signed(capsys: pytest.CaptureFixture[str]) -> None:
    begun()
    path = Path("roster.yaml")
    path.write_text(path.read_text(encoding="utf-8").replace("min_sites: 0", "min_sites: 2"), encoding="utf-8")
    assert "was changed after it was signed" in problem(capsys, "show", "roster.yaml")
    assert "was changed after it was signed" in problem(capsys, "revoke", "hospital-b")
    done("sign", "roster.yaml")
    assert (roster().version, roster().min_sites) == (2, 2)
    done("sign", "roster.yaml")
    assert roster().version == 2


def test_settings_of_the_roster_are_one_change(capsys: pytest.CaptureFixture[str]) -> None:
    begun()
    done("new", "standby", "--role", "aggregator")
    done("roster", "keys/standby.pub", "--min-sites", "3", "--sealed-to", "standby")
    assert (roster().version, roster().min_sites, roster().sealed_to) == (2, 3, "standby")
    capsys.readouterr()
    done("roster")
    assert "3 sites" in capsys.readouterr().out
    assert "none of the aggregators" in problem(capsys, "roster", "--sealed-to", "hospital-a")


def test_a_name_that_clashes_with_another_site_s_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    begun()
    done("new", "hospital", "--role", "worker")
    assert "could be of site hospital-a or of site hospital" in problem(capsys, "roster", "keys/hospital.pub")


def test_definitions_with_a_password_make_users_who_log_in_with_it(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FEDMQ_PASSWORD", "Hunter2")
    done("permissions", "site", "--elastic", "--json")
    said = capsys.readouterr().out
    assert "Hunter2" not in said
    made = json.loads(said)
    assert made["vhosts"] == [{"name": "/"}]
    (user,) = made["users"]
    salt, hashed = (part := base64.b64decode(user.pop("password_hash")))[:4], part[4:]
    assert hashed == hashlib.sha256(salt + b"Hunter2").digest()
    assert user == {"name": "site", "hashing_algorithm": "rabbit_password_hashing_sha256", "tags": []}
    assert made["permissions"] == definitions(["site"], "worker", "updates", is_elastic=True)["permissions"]
    done("permissions", "onlooker", "--role", "onlooker", "--json")
    assert json.loads(capsys.readouterr().out)["users"][0]["tags"] == ["management"]


def test_permissions_are_printed_as_commands_and_as_definitions(capsys: pytest.CaptureFixture[str]) -> None:
    done("permissions", "hospital-a", "hospital-b", "--queue", "trial")
    lines = capsys.readouterr().out.splitlines()
    assert lines == permission_lines(["hospital-a", "hospital-b"], "worker", "trial")
    assert len(lines) == 4
    done("permissions", "hospital-a", "--elastic", "--vhost", "heart", "--json")
    told = json.loads(capsys.readouterr().out)
    assert told == definitions(["hospital-a"], "worker", "updates", "heart", is_elastic=True)
    done("permissions", "--role", "partial", "shard-0", "--shard", "0")
    assert capsys.readouterr().out.splitlines() == permission_lines(["shard-0"], "partial", "updates", shard=0)


def test_help_ends_with_examples(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main(["--help"])
    assert left.value.code == 0
    assert "fl-keys revoke hospital-b" in capsys.readouterr().out.split("examples:")[1]
