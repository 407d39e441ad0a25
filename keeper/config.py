"""What a keeper is told once, at its start."""

from dataclasses import dataclass

from broker.wire import MAX_PART_BYTES, Topology
from console import IdentityError
from identities import Membership, Roster
from keeper.rules import Noise, Terms


@dataclass(frozen=True, slots=True, kw_only=True)
class KeeperConfig:
    """Who the keeper is, and what it asks for before it answers."""

    name: str
    topology: Topology
    membership: Membership
    min_sites: int
    noise: Noise | None = None
    takes_running: bool = False
    inline_cap: int = MAX_PART_BYTES
    """Bytes up to which an answer travels in its message."""
    part_bytes: int = MAX_PART_BYTES

    @property
    def roster(self) -> Roster:
        """The one that counts now. An IdentityError if there is none: a keeper believes nobody."""
        rosters = self.membership.rosters
        if rosters is None:
            raise IdentityError("a keeper needs a roster, which says who may ask and whose seeds count: --roster")
        return rosters.current()

    @property
    def terms(self) -> Terms:
        """By its own settings, and the roster that counts now."""
        floor = max(self.min_sites, self.roster.min_sites)
        return Terms(self.name, floor, self.noise, self.takes_running)
