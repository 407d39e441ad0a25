"""Who is who: keys, certificates, the roster, signatures checked by it, and sealing. Alone to use `cryptography`."""

from identities.certificates import Certificate
from identities.in_memory import InMemory, in_memory
from identities.membership import Credentials, Membership
from identities.private_keys import PrivateKeys
from identities.public_keys import KeyRole, PublicKeys, fingerprint_given
from identities.roster import Roster
from identities.sealing import Sealing, UpdateContext
from identities.settings import IdentitySettings, RosterSettings, membership
from identities.trust import Verified

__all__ = [
    "Certificate",
    "Credentials",
    "IdentitySettings",
    "InMemory",
    "KeyRole",
    "Membership",
    "PrivateKeys",
    "PublicKeys",
    "Roster",
    "RosterSettings",
    "Sealing",
    "UpdateContext",
    "Verified",
    "fingerprint_given",
    "in_memory",
    "membership",
]
