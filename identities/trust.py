"""Trust by roster: what this process signs with its key, and who signed what it receives."""

from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from broker.wire import Buffer, Signer, Trailer, signed_text
from console import ForgedMessage, IdentityError
from identities.certificates import Certificate
from identities.private_keys import PrivateKeys
from identities.public_keys import KeyRole
from identities.roster import Holder, Roster
from identities.roster_file import Rosters

MAY_SIGN: Mapping[str, tuple[KeyRole, ...]] = {
    "model": ("aggregator",),
    "status": ("aggregator",),
    "update": ("worker",),
    "reply": ("worker",),
    "presence": ("worker",),
    "partial": ("partial", "aggregator"),
    "command": ("operator",),
    "seed": ("worker",),
    "request": ("aggregator",),
    "release": ("keeper",),
    "withheld": ("keeper",),
}
"""Kind of message -> the roles that may sign it. Partials pass updates on as they came, signed by their workers."""

_REMEMBERED = 4096


class Certificates(Protocol):
    """Where the certificate that goes with a message comes from."""

    def current(self) -> Certificate: ...


@dataclass(frozen=True, slots=True)
class _Admitted:
    """The key in a certificate, and the site whose signature under it was right."""

    site: Holder
    worker_key: Ed25519PublicKey


class Verified:
    """A ``Trust`` that believes signatures of those on the roster alone. May be used by several threads.

    ``certificates`` gives what admits ``keys`` if they are not on the roster themselves. ``clock`` gives Unix time in
    seconds. Without ``keys`` it can only check, for those who look on.
    """

    def __init__(
        self,
        rosters: Rosters,
        keys: PrivateKeys | None = None,
        certificates: Certificates | None = None,
        *,
        clock: Callable[[], float],
    ) -> None:
        self.rosters = rosters
        """Where the roster that counts now comes from."""
        self._keys, self._certificates, self._clock = keys, certificates, clock
        self._admitted: OrderedDict[bytes, _Admitted] = OrderedDict()

    @property
    def roster(self) -> Roster:
        """The one that counts now."""
        return self.rosters.current()

    def signer(self) -> Signer:
        """Who the others take this process for. An IdentityError if they would refuse what it signs."""
        if self._keys is None:
            raise IdentityError("this process has no key, and can sign nothing")
        public = self._keys.public
        try:
            certificate = self._certificate()
            return _signer_of(self._holder(public.key_id, certificate), certificate=certificate)
        except ForgedMessage as error:
            raise IdentityError(
                f"the key of {public.role} {public.name} ({public.fingerprint}) would be refused: {error}"
            ) from error

    def sign(self, kind: str, header: Buffer) -> bytes:
        """The trailer. An IdentityError if there is no key to sign with."""
        if self._keys is None:
            raise IdentityError(f"no key to sign {_a(kind)} with")
        certificate = self._certificate()
        signature = self._keys.signing.sign(signed_text(kind, header, certificate))
        return Trailer(self._keys.public.key_id, signature, certificate).packed

    def signer_of(self, kind: str, header: Buffer, trailer: Buffer) -> Signer:
        """Who signed these very bytes. A ForgedMessage if nobody did who may."""
        parts = Trailer.parse(trailer)
        holder = self._holder(parts.key_id, parts.certificate)
        if holder.role not in MAY_SIGN.get(kind, ()):
            raise ForgedMessage(f"{holder.role} {holder.name} may not send {_a(kind)}")
        try:
            holder.key.verify(parts.signature, signed_text(kind, header, parts.certificate))
        except InvalidSignature:
            raise ForgedMessage(
                f"the signature does not fit: this {kind} was changed on its way,"
                f" or somebody else sent it in the name of {holder.role} {holder.name}"
            ) from None
        return _signer_of(holder, certificate=parts.certificate)

    def _certificate(self) -> bytes:
        return self._certificates.current().packed if self._certificates else b""

    def _holder(self, key_id: bytes, certificate: bytes) -> Holder:
        """Whose the key is with which a message says that it is signed."""
        roster = self.roster
        if key_id in roster.revoked_ids:
            raise ForgedMessage(f"key {key_id.hex()} is revoked")
        if certificate:
            return self._certified(roster, key_id, certificate)
        holder = roster.holders.get(key_id)
        if holder is None:
            raise ForgedMessage(f"nobody on the roster has key {key_id.hex()}")
        return holder

    def _certified(self, roster: Roster, key_id: bytes, packed: bytes) -> Holder:
        certificate = Certificate.parse(packed)
        if certificate.key_id != key_id:
            raise ForgedMessage(f"the certificate is for key {certificate.key_id.hex()}, not for {key_id.hex()}")
        site = roster.holders.get(certificate.site_key_id)
        if site is None or site.role != "worker" or site.key_id in roster.revoked_ids:
            raise ForgedMessage(
                f"the certificate of {certificate.worker} is by key {certificate.site_key_id.hex()},"
                " which is that of no site on the roster"
            )
        certificate.check_time(self._clock())
        return Holder("worker", certificate.worker, key_id, self._worker_key(certificate, packed, site))

    def _worker_key(self, certificate: Certificate, packed: bytes, site: Holder) -> Ed25519PublicKey:
        """The key in a certificate that this site signed; it is verified once for each site as the roster has it."""
        known = self._admitted.get(packed)
        if known is None or known.site != site:
            certificate.verify(site.name, site.key)
            known = _Admitted(site, Ed25519PublicKey.from_public_bytes(certificate.worker_key))
            self._admitted[packed] = known
            if len(self._admitted) > _REMEMBERED:
                self._admitted.popitem(last=False)
        return known.worker_key


def _signer_of(holder: Holder, *, certificate: bytes) -> Signer:
    if holder.role == "admin":
        raise ForgedMessage("the admin's key signs rosters, and no messages")
    of_site = (Certificate.parse(certificate).site_key_id,) if certificate else ()
    return Signer(holder.role, holder.name, (holder.key_id, *of_site))


def _a(kind: str) -> str:
    return f"an {kind}" if kind[:1] in "aeiou" else f"a {kind}"
