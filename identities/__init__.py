"""Who is who: keys, certificates, the roster, signatures checked by it, and sealing. Alone to use `cryptography`."""

from identities.certificates import Certificate
from identities.in_memory import InMemory, in_memory
from identities.private_keys import PrivateKeys, read_opening_key
from identities.public_keys import PublicKeys, fingerprint_given
from identities.roster import Roster
from identities.roster_file import RosterFile
from identities.sealing import SEALED_KEY_BYTES, TAG_BYTES, Opener, Sealer, UpdateContext, open_key, seal_key
from identities.trust import Verified

__all__ = [
    "SEALED_KEY_BYTES",
    "TAG_BYTES",
    "Certificate",
    "InMemory",
    "Opener",
    "PrivateKeys",
    "PublicKeys",
    "Roster",
    "RosterFile",
    "Sealer",
    "UpdateContext",
    "Verified",
    "fingerprint_given",
    "in_memory",
    "open_key",
    "read_opening_key",
    "seal_key",
]
