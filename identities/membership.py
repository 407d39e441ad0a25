"""A process as a member of its federation: who it is on the roster, and how it signs, checks, seals and opens."""

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from broker.wire import Believing, Protection, Role, Signer, Trust
from console import IdentityError
from identities.certificate_file import CertificateFile
from identities.certificates import Certificate, is_of_site
from identities.private_keys import PrivateKeys, read_opening_key
from identities.roster import Roster
from identities.roster_file import RosterFile, Rosters
from identities.sealing import Sealing
from identities.trust import Certificates, Verified

log = logging.getLogger(__name__)

_DAYS_IN_MEMORY = 365.0 * 1000
"""A key that never leaves the process which has the site's key is as good as that key: whatever this machine's clock
says, its certificate is valid, from 1970 on."""


@dataclass(frozen=True, slots=True)
class Membership:
    """How one process takes part. By default it is nobody: it signs nothing, and believes every sender."""

    trust: Trust = field(default_factory=Believing)
    sealing: Sealing = field(default_factory=Sealing)
    protection: tuple[Protection, ...] = ()
    """What the roster asks of updates."""

    @property
    def rosters(self) -> Rosters | None:
        """Where the roster that counts now comes from; None: every sender is believed."""
        return self.trust.rosters if isinstance(self.trust, Verified) else None

    @property
    def has_roster(self) -> bool:
        """Whether only what is signed counts."""
        return self.rosters is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """Where a process has its keys, and by which key it knows its roster: paths of files, and a fingerprint."""

    roster: Path
    fingerprint: str
    key: Path | None = None
    """A certificate, ``NAME.cert``, is looked for beside it."""
    opening_keys: Sequence[Path] = ()
    clock: Callable[[], float] = time.time
    """Unix time in seconds."""

    def membership(self, role: Role, name: str | None = None) -> Membership:
        """As a member of this role, which goes by ``name`` (None: by that of its key).

        The key of a site admits a worker of the site by any name. An IdentityError if others would refuse what this
        process signs, and for an aggregator also if it could not open what is sealed.
        """
        rosters = RosterFile(self.roster, self.fingerprint, clock=self.clock)
        keys, certificates = self._keys_as(role, name)
        trust = Verified(rosters, keys, certificates, clock=self.clock)
        signer = trust.signer()
        _check_signer(signer, role, name)
        own = [] if keys.opening is None else [keys.opening]
        private = [*own, *map(read_opening_key, self.opening_keys)]
        roster = rosters.current()
        if role in ("aggregator", "partial"):
            _check_opens(roster, private)
        log.info("%s signs with key %s", signer, keys.public.fingerprint)
        log.info(
            "roster of %s, version %d, signed by %s: %d sites; updates are signed%s",
            roster.federation,
            roster.version,
            roster.admin_fingerprint,
            len(roster.sites),
            "" if roster.sealed_to is None else f", and sealed to {roster.sealed_to}",
        )
        return Membership(trust, Sealing(lambda: rosters.current().opening_key, private), _protection_of(roster))

    def onlooker(self) -> Membership:
        """As somebody who checks what others sign, and signs nothing."""
        rosters = RosterFile(self.roster, self.fingerprint, clock=self.clock)
        return Membership(Verified(rosters, clock=self.clock), protection=_protection_of(rosters.current()))

    def name(self) -> str:
        """The name in the certificate, or else that of the key."""
        keys = self._read_key()
        certificates = self._certificates(keys)
        return keys.public.name if certificates is None else certificates.current().worker

    def _read_key(self) -> PrivateKeys:
        return PrivateKeys.read(self._key)

    @property
    def _key(self) -> Path:
        if self.key is None:
            raise IdentityError("with --roster, this process has to sign: --key names the key that fl-keys new made")
        return self.key

    def _certificates(self, keys: PrivateKeys) -> CertificateFile | None:
        path = self._key.with_suffix(".cert")
        return CertificateFile(path, keys.public.key_id, clock=self.clock) if path.exists() else None

    def _keys_as(self, role: Role, name: str | None) -> tuple[PrivateKeys, Certificates | None]:
        keys = self._read_key()
        certificates = self._certificates(keys)
        is_own = name is None or name == keys.public.name or not is_of_site(name, keys.public.name)
        if certificates is not None or role != "worker" or is_own:
            return keys, certificates
        assert name is not None
        own = PrivateKeys.generate("worker", name)
        return own, _Issued(Certificate.issue(keys, own.public, now=0.0, days=_DAYS_IN_MEMORY))


@dataclass(frozen=True, slots=True)
class _Issued:
    """A certificate that the process gave itself."""

    certificate: Certificate

    def current(self) -> Certificate:
        return self.certificate


def _protection_of(roster: Roster) -> tuple[Protection, ...]:
    return ("signed",) if roster.sealed_to is None else ("signed", "sealed")


def _check_signer(signer: Signer, role: Role, name: str | None) -> None:
    if signer.role != role:
        raise IdentityError(f"the key is that of {signer}, which is no {role}; give its own with --key")
    if name is not None and signer.name != name:
        raise IdentityError(
            f"the key is that of {signer}, and the name is {name}: leave --name out, or get a certificate for"
            f" {name} from its site (fl-keys sign)"
        )


def _check_opens(roster: Roster, private: Sequence[X25519PrivateKey]) -> None:
    if roster.opening_key is None:
        return
    if roster.opening_key not in [key.public_key().public_bytes_raw() for key in private]:
        raise IdentityError(
            f"updates are sealed to {roster.sealed_to}, and no key here opens them:"
            f" --opening-key names the file {roster.sealed_to}.opening.key"
        )
