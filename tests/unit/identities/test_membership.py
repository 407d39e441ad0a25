"""A process as a member of its federation: which key it may come with, and what it can do then."""

import logging
import time
from dataclasses import replace
from pathlib import Path

import pytest

from broker.wire import Signer
from console.errors import IdentityError, UnfitMessage
from identities import Credentials, Membership, PrivateKeys, Roster, UpdateContext
from identities.trust import Verified

CONTEXT = UpdateContext("r.1", 3, "hospital-a", "0" * 16, "1" * 64, "2" * 64)


class Files:
    """The keys of a federation, as fl-keys leaves them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.admin = PrivateKeys.generate("admin", "admin")
        self.keys = {
            name: PrivateKeys.generate(role, name)
            for role, name in (("aggregator", "center"), ("partial", "shard-0"), ("worker", "hospital-a"))
        }
        for keys in self.keys.values():
            keys.save(folder)
        empty = Roster(federation="heart", admin=self.admin.public.signing_key)
        self.roster = empty.with_members([keys.public for keys in self.keys.values()])
        self.roster.save(folder / "roster.yaml", self.admin)

    def of(self, name: str, *opening: str) -> Credentials:
        return Credentials(
            roster=self.folder / "roster.yaml",
            fingerprint=self.roster.admin_fingerprint,
            key=self.folder / f"{name}.key",
            opening_keys=[self.folder / f"{each}.opening.key" for each in opening],
        )


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


def signer_of(membership: Membership) -> Signer:
    assert isinstance(membership.trust, Verified)
    return membership.trust.signer()


def test_a_member_signs_as_its_key_says_and_says_whose_roster_it_goes_by(
    files: Files, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    membership = files.of("hospital-a").membership("worker")
    assert signer_of(membership) == Signer("worker", "hospital-a")
    assert membership.protection == ("signed", "sealed")
    assert files.keys["hospital-a"].public.fingerprint in caplog.text
    assert files.admin.public.fingerprint in caplog.text


def test_the_key_of_another_role_or_name_is_refused(files: Files) -> None:
    with pytest.raises(IdentityError, match="that of worker hospital-a, which is no aggregator"):
        files.of("hospital-a").membership("aggregator")
    with pytest.raises(IdentityError, match="the name is hospital-b"):
        files.of("hospital-a").membership("worker", "hospital-b")


@pytest.mark.parametrize("ahead_s", [-3600.0, 3600.0])
def test_a_worker_that_its_site_s_own_key_admits_needs_no_right_clock(files: Files, ahead_s: float) -> None:
    site = replace(files.of("hospital-a"), clock=lambda: time.time() + ahead_s)
    trailer = site.membership("worker", "hospital-a-2").trust.sign("update", b"header")
    checks = files.of("center").membership("aggregator").trust
    assert checks.signer_of("update", b"header", trailer) == Signer("worker", "hospital-a-2")


def test_the_key_of_a_site_admits_a_worker_of_the_site_by_any_name(files: Files) -> None:
    membership = files.of("hospital-a").membership("worker", "hospital-a-gpu-2")
    assert signer_of(membership) == Signer("worker", "hospital-a-gpu-2")
    center = files.of("center").membership("aggregator")
    assert center.trust.signer_of("update", b"header", membership.trust.sign("update", b"header")) == Signer(
        "worker", "hospital-a-gpu-2"
    )


def test_what_a_worker_seals_only_those_with_the_opening_key_open(files: Files) -> None:
    seal, sealed = files.of("hospital-a").membership("worker").sealing.seal(CONTEXT)
    part = seal.part(0, True, b"delta")
    for credentials, role in ((files.of("center"), "aggregator"), (files.of("shard-0", "center"), "partial")):
        opener = credentials.membership(role).sealing.unseal(CONTEXT, sealed)  # type: ignore[arg-type]
        assert opener.part(0, True, part) == b"delta"
    with pytest.raises(UnfitMessage, match="no key here that opens it"):
        files.of("hospital-a").membership("worker").sealing.unseal(CONTEXT, sealed)


def test_a_partial_without_the_opening_key_does_not_start(files: Files) -> None:
    with pytest.raises(IdentityError, match=r"--opening-key names the file center\.opening\.key"):
        files.of("shard-0").membership("partial")


def test_who_only_looks_on_checks_and_cannot_sign(files: Files) -> None:
    onlooker = files.of("hospital-a").onlooker()
    signed = files.of("center").membership("aggregator").trust.sign("status", b"header")
    assert onlooker.trust.signer_of("status", b"header", signed) == Signer("aggregator", "center")
    with pytest.raises(IdentityError, match="no key to sign"):
        onlooker.trust.sign("status", b"header")
