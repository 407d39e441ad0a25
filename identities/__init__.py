"""Who is who: keys, certificates, the roster, signatures checked by it, and sealing. Alone to use `cryptography`."""

from identities.certificates import Certificate
from identities.in_memory import AGGREGATOR, InMemory, in_memory
from identities.membership import Credentials, Membership
from identities.private_keys import PrivateKeys
from identities.public_keys import PublicKeys, fingerprint_given
from identities.roster import Roster
from identities.roster_file import Rosters
from identities.sealing import Sealing, UpdateContext, seal_seed
from identities.settings import IdentitySettings, RosterSettings, membership, onlooker

__all__ = [
    "AGGREGATOR",
    "Certificate",
    "Credentials",
    "IdentitySettings",
    "InMemory",
    "Membership",
    "PrivateKeys",
    "PublicKeys",
    "Roster",
    "RosterSettings",
    "Rosters",
    "Sealing",
    "UpdateContext",
    "fingerprint_given",
    "in_memory",
    "membership",
    "onlooker",
    "seal_seed",
]
