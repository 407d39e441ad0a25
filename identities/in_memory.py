"""A federation whose keys are in memory only: for simulations and tests."""

import hmac
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from broker.wire import Protection
from identities.membership import Membership
from identities.private_keys import PrivateKeys
from identities.public_keys import OPENING_ROLES, KeyRole
from identities.roster import Roster
from identities.roster_file import FixedRoster
from identities.sealing import Sealing
from identities.trust import Verified

AGGREGATOR = "aggregator"


@dataclass(frozen=True, slots=True)
class InMemory:
    """Everybody's keys, and the roster that names them."""

    roster: Roster
    admin: PrivateKeys
    keys: Mapping[str, PrivateKeys]
    """Name -> keys, of the aggregator, the partials, the keepers and the sites."""

    def trust(self, name: str | None = None, *, clock: Callable[[], float] = time.time) -> Verified:
        """How this one signs and checks; None: somebody who only looks on."""
        return Verified(FixedRoster(self.roster), self.keys[name] if name else None, clock=clock)

    def membership(self, name: str, protection: tuple[Protection, ...] = ("signed",)) -> Membership:
        """How this one takes part; who has a key to open something opens what is sealed to that."""
        opening = self.keys[name].opening
        sealing = Sealing(lambda: self.roster.opening_key, [] if opening is None else [opening])
        return Membership(self.trust(name), sealing, protection)


def in_memory(
    sites: Iterable[str],
    *,
    partials: Iterable[str] = (),
    keepers: Iterable[str] = (),
    federation: str = "simulation",
    secret: bytes | None = None,
) -> InMemory:
    """Keys for an admin, an aggregator, these partials, keepers and sites. An IdentityError if two names clash.

    They are new, or follow from ``secret``: with the same 32 bytes, they are the same in each process.
    """

    def made(role: KeyRole, names: Iterable[str]) -> list[PrivateKeys]:
        return [PrivateKeys.generate(role, name) if secret is None else _derived(role, name, secret) for name in names]

    (admin,) = made("admin", ["admin"])
    members = [
        *made("aggregator", [AGGREGATOR]),
        *made("partial", partials),
        *made("keeper", keepers),
        *made("worker", sites),
    ]
    empty = Roster(federation=federation, admin=admin.public.signing_key)
    roster = empty.with_members([member.public for member in members])
    return InMemory(roster, admin, {member.public.name: member for member in members})


def _derived(role: KeyRole, name: str, secret: bytes) -> PrivateKeys:
    signing, opening = (
        hmac.digest(secret, f"fedmq key|{role}|{name}|{what}".encode(), "sha256") for what in ("signing", "opening")
    )
    return PrivateKeys.of(
        role,
        name,
        Ed25519PrivateKey.from_private_bytes(signing),
        X25519PrivateKey.from_private_bytes(opening) if role in OPENING_ROLES else None,
    )
