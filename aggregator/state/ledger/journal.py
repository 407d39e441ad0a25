"""Where SQLite keeps a transaction of the ledger until it is done: in a log of its own, or in a file beside it.

With the log (WAL) nobody waits for anybody, but all who have the ledger open share memory, which several machines
cannot: on a file system of a network a reader elsewhere would read nonsense. There, the pages that a transaction
changes are kept in a file until it is done, and locks are all that is shared.
"""

import re
from pathlib import Path

IN_A_LOG, BESIDE = "WAL", "TRUNCATE"
WAITS_S = {IN_A_LOG: 5.0, BESIDE: 60.0}
"""How long a transaction waits for others: beside, it waits for whoever is reading."""
_OF_NETWORKS = frozenset(
    {"9p", "afs", "beegfs", "ceph", "cifs", "glusterfs", "gpfs", "lustre", "nfs", "nfs4", "smb3", "smbfs", "virtiofs"}
)
_MOUNTS = Path("/proc/self/mountinfo")
_ESCAPED = re.compile(r"\\([0-7]{3})")


def journal_mode(folder: Path, *, mounts: Path = _MOUNTS) -> str:
    """That of a ledger in ``folder``, by the file system there. What cannot be told counts as this machine's own."""
    try:
        lines = mounts.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return IN_A_LOG
    kind = _kind_at(folder.resolve(), lines)
    return BESIDE if kind in _OF_NETWORKS or kind.startswith("fuse.") else IN_A_LOG


def _kind_at(folder: Path, lines: list[str]) -> str:
    """The kind of the file system that was mounted last of those that ``folder`` is nearest to; empty if none is."""
    nearest, kind = -1, ""
    for line in lines:
        mount, _, source = line.partition(" - ")
        fields = mount.split(" ")
        if len(fields) < 5 or not source:
            continue
        point = Path(_ESCAPED.sub(lambda found: chr(int(found[1], 8)), fields[4]))
        if folder.is_relative_to(point) and len(point.parts) >= nearest:
            nearest, kind = len(point.parts), source.split(" ")[0]
    return kind
