"""Who signed what: the roster decides, and nothing else."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.wire import MAX_TRAILER_BYTES, Signer, Trailer, Trust, signed_text
from console import ForgedMessage, IdentityError
from identities import Certificate, Credentials, PrivateKeys, Roster, in_memory
from identities.roster_file import FixedRoster, RosterFile
from identities.trust import Verified

NOW = 1_800_000_000.0
FEDERATION = in_memory(["hospital-a", "hospital-b"], partials=["shard-0"])
SITE = FEDERATION.keys["hospital-a"]
WORKER = PrivateKeys.generate("worker", "hospital-a-7")
CERTIFICATE = Certificate.issue(SITE, WORKER.public, now=NOW, days=7)
HEADER = b"\x82\xa4kind\xa6update"


class FixedCertificate:
    def __init__(self, certificate: Certificate) -> None:
        self._certificate = certificate

    def current(self) -> Certificate:
        return self._certificate


def trust_of(
    keys: PrivateKeys | None = None,
    certificate: Certificate | None = None,
    *,
    roster: Roster = FEDERATION.roster,
    now: float = NOW,
) -> Verified:
    certificates = FixedCertificate(certificate) if certificate else None
    return Verified(FixedRoster(roster), keys, certificates, clock=lambda: now)


def refusal(trust: Trust, kind: str, trailer: bytes, header: bytes = HEADER) -> str:
    with pytest.raises(ForgedMessage) as caught:
        trust.signer_of(kind, header, trailer)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("name", "kind", "role"),
    [
        ("hospital-a", "update", "worker"),
        ("hospital-a", "presence", "worker"),
        ("aggregator", "model", "aggregator"),
        ("aggregator", "status", "aggregator"),
        ("aggregator", "partial", "aggregator"),
        ("shard-0", "partial", "partial"),
    ],
)
def test_everybody_signs_what_is_theirs_to_say(name: str, kind: str, role: str) -> None:
    trailer = FEDERATION.trust(name).sign(kind, HEADER)
    assert len(trailer) == 72
    assert trust_of().signer_of(kind, memoryview(HEADER), memoryview(trailer)) == Signer(role, name)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "kinds"),
    [
        ("hospital-a", ["model", "status", "partial", "release", ""]),
        ("shard-0", ["model", "status", "update", "presence"]),
        ("aggregator", ["update", "presence"]),
    ],
)
def test_nobody_says_what_is_another_s_to_say(name: str, kinds: list[str]) -> None:
    for kind in kinds:
        assert f"{name} may not send" in refusal(trust_of(), kind, FEDERATION.trust(name).sign(kind, HEADER))


def test_the_admin_s_key_signs_no_messages() -> None:
    admin = trust_of(FEDERATION.admin)
    for kind in ("model", "update", "partial"):
        assert "may not send" in refusal(trust_of(), kind, admin.sign(kind, HEADER))
    with pytest.raises(IdentityError, match="signs rosters, and no messages"):
        admin.signer()


def test_a_signature_holds_for_one_kind_and_one_header() -> None:
    trailer = FEDERATION.trust("hospital-a").sign("update", HEADER)
    assert "does not fit" in refusal(trust_of(), "presence", trailer)
    assert "does not fit" in refusal(trust_of(), "update", trailer, HEADER + b"\0")


def test_somebody_who_is_not_on_the_roster_is_refused() -> None:
    stranger = PrivateKeys.generate("worker", "hospital-a")
    trailer = trust_of(stranger).sign("update", HEADER)
    assert refusal(trust_of(), "update", trailer) == f"nobody on the roster has key {stranger.public.key_id.hex()}"
    # the key id of a site, and a signature of one's own
    claimed = Trailer(SITE.public.key_id, stranger.signing.sign(signed_text("update", HEADER))).packed
    assert "somebody else sent it in the name of worker hospital-a" in refusal(trust_of(), "update", claimed)


def test_a_message_that_is_not_signed_is_refused() -> None:
    assert "is not signed" in refusal(trust_of(), "update", b"")
    assert "72 to" in refusal(trust_of(), "update", bytes(71))
    refusal(trust_of(), "update", bytes(72))
    refusal(trust_of(), "update", bytes(MAX_TRAILER_BYTES))


def test_a_certificate_admits_a_worker_of_its_site() -> None:
    trailer = trust_of(WORKER, CERTIFICATE).sign("update", HEADER)
    verified = trust_of()
    for _ in range(2):  # the second time, the certificate is known
        assert verified.signer_of("update", HEADER, trailer) == Signer("worker", "hospital-a-7")
    assert "worker hospital-a-7 may not send a model" in refusal(
        verified, "model", trust_of(WORKER, CERTIFICATE).sign("model", HEADER)
    )


def test_a_certificate_counts_while_it_is_valid_and_its_site_and_its_key_are_not_revoked() -> None:
    trailer = trust_of(WORKER, CERTIFICATE).sign("update", HEADER)
    assert "expired" in refusal(trust_of(now=NOW + 8 * 86400), "update", trailer)
    assert "valid only from" in refusal(trust_of(now=NOW - 8 * 86400), "update", trailer)
    without_site = FEDERATION.roster.without(["hospital-a"], [])
    assert "no site on the roster" in refusal(trust_of(roster=without_site), "update", trailer)
    without_worker = FEDERATION.roster.without([], [WORKER.public.key_id])
    assert "is revoked" in refusal(trust_of(roster=without_worker), "update", trailer)
    still_listed = Roster.model_validate(FEDERATION.roster.model_dump() | {"revoked": (SITE.public.key_id.hex(),)})
    assert "no site on the roster" in refusal(trust_of(roster=still_listed), "update", trailer)
    own = FEDERATION.trust("hospital-a").sign("update", HEADER)
    assert "is revoked" in refusal(trust_of(roster=still_listed), "update", own)


def test_a_certificate_that_was_good_once_is_refused_when_its_site_is_revoked() -> None:
    """What is remembered of a certificate does not outlive the roster it was checked by."""

    class Changing:
        roster = FEDERATION.roster

        def current(self) -> Roster:
            return self.roster

    rosters = Changing()
    verified = Verified(rosters, clock=lambda: NOW)
    trailer = trust_of(WORKER, CERTIFICATE).sign("update", HEADER)
    verified.signer_of("update", HEADER, trailer)
    rosters.roster = FEDERATION.roster.without(["hospital-a"], [])
    refusal(verified, "update", trailer)
    renamed = {"hospital-c": SITE.public.signing_key, "hospital-b": FEDERATION.roster.sites["hospital-b"]}
    rosters.roster = Roster.model_validate(FEDERATION.roster.model_dump() | {"sites": renamed})
    assert "hospital-c may not admit a worker named hospital-a-7" in refusal(verified, "update", trailer)


def test_another_site_cannot_put_its_certificate_under_somebody_s_message() -> None:
    """It certifies the same key under a name of its own, and claims to be the sender."""
    other = FEDERATION.keys["hospital-b"]
    thief = WORKER.public.model_copy(update={"name": "hospital-b-7"})
    claim = Certificate.issue(other, thief, now=NOW, days=7)
    honest = Trailer.parse(trust_of(WORKER, CERTIFICATE).sign("update", HEADER))
    assert "does not fit" in refusal(
        trust_of(), "update", Trailer(honest.key_id, honest.signature, claim.packed).packed
    )
    plain = Trailer.parse(FEDERATION.trust("hospital-a").sign("update", HEADER))
    of_site = SITE.public.model_copy(update={"name": "hospital-b-8"})
    claim = Certificate.issue(other, of_site, now=NOW, days=7)
    assert "does not fit" in refusal(trust_of(), "update", Trailer(plain.key_id, plain.signature, claim.packed).packed)


def test_a_certificate_for_another_key_or_by_no_site_is_refused() -> None:
    stranger = PrivateKeys.generate("worker", "hospital-a-8")
    assert "the certificate is for key" in refusal(
        trust_of(), "update", trust_of(stranger, CERTIFICATE).sign("update", HEADER)
    )
    by_stranger = Certificate.issue(PrivateKeys.generate("worker", "hospital-a"), WORKER.public, now=NOW, days=7)
    assert "no site on the roster" in refusal(
        trust_of(), "update", trust_of(WORKER, by_stranger).sign("update", HEADER)
    )


def test_a_certificate_by_another_role_s_key_is_refused() -> None:
    shard = FEDERATION.keys["shard-0"]
    as_site = PrivateKeys.of("worker", "hospital-a", shard.signing)
    certificate = Certificate.issue(as_site, WORKER.public, now=NOW, days=7)
    assert "no site on the roster" in refusal(
        trust_of(), "update", trust_of(WORKER, certificate).sign("update", HEADER)
    )


@given(st.data())
def test_any_flipped_bit_of_header_or_trailer_is_refused(data: st.DataObject) -> None:
    keys, certificate = data.draw(st.sampled_from([(SITE, None), (WORKER, CERTIFICATE)]))
    header = data.draw(st.binary(min_size=1, max_size=64))
    trailer = trust_of(keys, certificate).sign("update", header)
    message = bytearray(header + trailer)
    bit = data.draw(st.integers(0, 8 * len(message) - 1))
    message[bit // 8] ^= 1 << bit % 8
    refusal(trust_of(), "update", bytes(message[len(header) :]), bytes(message[: len(header)]))


def test_every_flipped_bit_of_a_trailer_with_a_certificate_is_refused() -> None:
    verified = trust_of()
    trailer = trust_of(WORKER, CERTIFICATE).sign("update", HEADER)
    verified.signer_of("update", HEADER, trailer)  # the unchanged certificate is known
    for bit in range(8 * len(trailer)):
        flipped = bytearray(trailer)
        flipped[bit // 8] ^= 1 << bit % 8
        refusal(verified, "update", bytes(flipped))


@given(st.binary(max_size=MAX_TRAILER_BYTES + 8))
def test_whatever_stands_in_a_trailer_is_a_forged_message_and_nothing_else(trailer: bytes) -> None:
    refusal(trust_of(), "update", trailer)
    refusal(trust_of(), "update", WORKER.public.key_id + bytes(64) + b"\x01" + trailer)


def test_a_process_knows_whether_the_others_would_believe_it() -> None:
    assert trust_of(SITE).signer() == Signer("worker", "hospital-a")
    assert trust_of(WORKER, CERTIFICATE).signer() == Signer("worker", "hospital-a-7")
    with pytest.raises(IdentityError, match=r"of worker hospital-a-7 .* would be refused: nobody on the roster"):
        trust_of(WORKER).signer()
    with pytest.raises(IdentityError, match="expired"):
        trust_of(WORKER, CERTIFICATE, now=NOW + 8 * 86400).signer()


def test_without_a_key_one_can_look_on_and_sign_nothing() -> None:
    onlooker = FEDERATION.trust()
    status = FEDERATION.trust("aggregator").sign("status", HEADER)
    assert onlooker.signer_of("status", HEADER, status) == Signer("aggregator", "aggregator")
    for ask in (lambda: onlooker.sign("update", HEADER), onlooker.signer):
        with pytest.raises(IdentityError, match="no key"):
            ask()


def test_who_leaves_the_roster_file_is_refused_from_then_on(tmp_path: Path) -> None:
    path, now = tmp_path / "roster.yaml", [NOW]
    FEDERATION.roster.save(path, FEDERATION.admin)
    fingerprint = FEDERATION.roster.admin_fingerprint
    verified = Verified(RosterFile(path, fingerprint, clock=lambda: now[0]), clock=lambda: now[0])
    trailer = FEDERATION.trust("hospital-a").sign("update", HEADER)
    verified.signer_of("update", HEADER, trailer)
    FEDERATION.roster.without(["hospital-a"], []).save(path, FEDERATION.admin)
    now[0] += 1
    assert "is revoked" in refusal(verified, "update", trailer)
    assert verified.roster.version == FEDERATION.roster.version + 1


# -- as a process is told ---------------------------------------------------------------------------------------


class Files:
    """A roster, and a worker's key and certificate beside it."""

    def __init__(self, folder: Path) -> None:
        self.now, self.folder = NOW, folder
        self.roster = folder / "roster.yaml"
        FEDERATION.roster.save(self.roster, FEDERATION.admin)
        self.site, self.worker = SITE.save(folder), WORKER.save(folder)
        self.certificate = folder / "hospital-a-7.cert"

    def trust(self, key: Path | None) -> Verified:
        fingerprint = FEDERATION.roster.admin_fingerprint
        known = Credentials(roster=self.roster, fingerprint=fingerprint, key=key, clock=lambda: self.now)
        membership = known.onlooker() if key is None else known.membership("worker")
        assert isinstance(membership.trust, Verified)
        return membership.trust


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


def test_a_process_signs_with_the_key_that_its_file_holds(files: Files) -> None:
    site, onlooker = files.trust(files.site), files.trust(None)
    assert onlooker.signer_of("update", HEADER, site.sign("update", HEADER)) == Signer("worker", "hospital-a")


def test_a_process_whose_key_would_be_refused_does_not_start(files: Files) -> None:
    with pytest.raises(IdentityError, match="would be refused: nobody on the roster has key"):
        files.trust(files.worker)


def test_a_certificate_beside_the_key_is_used_and_renewed_without_a_restart(
    files: Files, caplog: pytest.LogCaptureFixture
) -> None:
    CERTIFICATE.save(files.certificate)
    worker, onlooker = files.trust(files.worker), files.trust(None)
    assert worker.signer() == Signer("worker", "hospital-a-7")
    files.now += 8 * 86400
    assert "expired" in refusal(onlooker, "update", worker.sign("update", HEADER))
    files.certificate.write_text("nothing", encoding="utf-8")
    files.now += 1
    assert "expired" in refusal(onlooker, "update", worker.sign("update", HEADER))
    Certificate.issue(SITE, WORKER.public, now=files.now, days=7).save(files.certificate)
    files.now += 1
    assert onlooker.signer_of("update", HEADER, worker.sign("update", HEADER)) == Signer("worker", "hospital-a-7")
    (warning,) = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert warning.startswith(str(files.certificate))


def test_a_certificate_for_another_key_is_refused_at_the_start(files: Files) -> None:
    other = PrivateKeys.generate("worker", "hospital-a-7")
    Certificate.issue(SITE, other.public, now=NOW, days=7).save(files.certificate)
    with pytest.raises(IdentityError, match=f"is for key {other.public.key_id.hex()}"):
        files.trust(files.worker)


def test_a_signer_has_the_ids_of_the_keys_that_show_who_it_is() -> None:
    site = trust_of().signer_of("update", HEADER, trust_of(SITE).sign("update", HEADER))
    worker = trust_of().signer_of("update", HEADER, trust_of(WORKER, CERTIFICATE).sign("update", HEADER))
    assert site.keys == (SITE.public.key_id,)
    assert worker.keys == (WORKER.public.key_id, SITE.public.key_id)
