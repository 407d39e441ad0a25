"""Certificates by which a site admits its own workers."""

from dataclasses import replace
from pathlib import Path

import pytest

from console import ForgedMessage, IdentityError
from identities import Certificate, PrivateKeys

NOW = 1_800_000_000.0
SITE = PrivateKeys.generate("worker", "hospital-a")
WORKER = PrivateKeys.generate("worker", "hospital-a-7")
CERTIFICATE = Certificate.issue(SITE, WORKER.public, now=NOW, days=7)
SITE_KEY = SITE.signing.public_key()


def test_a_certificate_is_as_the_layout_says() -> None:
    packed = CERTIFICATE.packed
    assert len(packed) == 58 + len("hospital-a-7") + 64
    assert packed[:9] == b"\x01" + SITE.public.key_id
    assert packed[9:41].hex() == WORKER.public.signing_key
    assert packed[41:57] == int(NOW - 300).to_bytes(8, "little") + int(NOW + 7 * 86400).to_bytes(8, "little")
    assert packed[57:-64] == b"\x0chospital-a-7"
    assert Certificate.parse(memoryview(packed)) == CERTIFICATE
    longest = Certificate.issue(SITE, PrivateKeys.generate("worker", "hospital-a-" + "x" * 53).public, now=NOW, days=7)
    assert len(longest.packed) == 186


def test_a_certificate_holds_until_it_expires() -> None:
    CERTIFICATE.verify("hospital-a", SITE_KEY)
    CERTIFICATE.check_time(NOW)
    CERTIFICATE.check_time(NOW + 7 * 86400)
    with pytest.raises(ForgedMessage, match="of hospital-a-7 expired 2027-01-22 08:00:00 UTC"):
        CERTIFICATE.check_time(NOW + 7 * 86400 + 1)


def test_a_certificate_of_the_future_is_refused_but_for_what_clocks_differ() -> None:
    CERTIFICATE.check_time(NOW - 300)
    with pytest.raises(ForgedMessage, match="valid only from"):
        CERTIFICATE.check_time(NOW - 301)


def test_a_certificate_of_another_site_is_refused() -> None:
    other = PrivateKeys.generate("worker", "hospital-b")
    with pytest.raises(ForgedMessage, match="not signed by site hospital-b"):
        CERTIFICATE.verify("hospital-b", other.signing.public_key())
    # a site that signs the name of another's worker, past fl-keys
    unsigned = replace(CERTIFICATE, site_key_id=other.public.key_id)
    forged = replace(unsigned, signature=other.signing.sign(unsigned.signed_text))
    with pytest.raises(ForgedMessage, match="hospital-b may not admit a worker named hospital-a-7"):
        forged.verify("hospital-b", other.signing.public_key())


@pytest.mark.parametrize(
    ("role", "name"), [("worker", "hospital-b"), ("worker", "hospital-ab"), ("partial", "hospital-a-1")]
)
def test_a_site_admits_only_workers_of_its_own_name(role: str, name: str) -> None:
    with pytest.raises(IdentityError, match=f"not {role} {name}$"):
        Certificate.issue(SITE, PrivateKeys.generate(role, name).public, now=NOW, days=7)  # type: ignore[arg-type]


def test_only_a_site_s_key_signs_certificates() -> None:
    admin = PrivateKeys.generate("admin", "admin")
    with pytest.raises(IdentityError, match="signed with a site's key"):
        Certificate.issue(admin, WORKER.public, now=NOW, days=7)


def test_every_flipped_bit_of_a_certificate_is_refused() -> None:
    packed = CERTIFICATE.packed
    for bit in range(8 * len(packed)):
        flipped = bytearray(packed)
        flipped[bit // 8] ^= 1 << bit % 8
        with pytest.raises(ForgedMessage) as caught:
            Certificate.parse(flipped).verify("hospital-a", SITE_KEY)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("size", [0, 1, 58, 121, 122, 133])
def test_a_certificate_that_is_cut_off_is_refused(size: int) -> None:
    with pytest.raises(ForgedMessage):
        Certificate.parse(CERTIFICATE.packed[:size])


def test_a_certificate_travels_as_a_text_file(tmp_path: Path) -> None:
    path = tmp_path / "hospital-a-7.cert"
    CERTIFICATE.save(path)
    assert Certificate.read(path) == CERTIFICATE
    assert path.read_text(encoding="utf-8").startswith("# certificate of worker hospital-a-7, valid until 2027-01-22")
    path.write_text("certificate: 'ab12'\n", encoding="utf-8")
    with pytest.raises(IdentityError, match="cut off"):
        Certificate.read(path)
    with pytest.raises(IdentityError, match="No such file"):
        Certificate.read(tmp_path / "other.cert")
