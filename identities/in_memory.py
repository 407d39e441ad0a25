"""A federation whose keys are in memory only: for simulations and tests."""

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from identities.private_keys import PrivateKeys
from identities.roster import Roster
from identities.roster_file import FixedRoster
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


def in_memory(
    sites: Iterable[str],
    *,
    partials: Iterable[str] = (),
    keepers: Iterable[str] = (),
    federation: str = "simulation",
) -> InMemory:
    """New keys for an admin, an aggregator, these partials, keepers and sites. An IdentityError if two names clash."""
    admin = PrivateKeys.generate("admin", "admin")
    members = [
        PrivateKeys.generate("aggregator", AGGREGATOR),
        *(PrivateKeys.generate("partial", name) for name in partials),
        *(PrivateKeys.generate("keeper", name) for name in keepers),
        *(PrivateKeys.generate("worker", name) for name in sites),
    ]
    empty = Roster(federation=federation, admin=admin.public.signing_key)
    roster = empty.with_members([member.public for member in members])
    return InMemory(roster, admin, {member.public.name: member for member in members})
