"""Keys and a roster for a measured federation, so that its updates are signed and sealed, or masked."""

from collections.abc import Iterable, Mapping
from pathlib import Path

from identities import PrivateKeys, Roster

AGGREGATOR = "aggregator"


def enrolled(folder: Path, workers: Iterable[str], *, keepers: Iterable[str] = ()) -> dict[str, Mapping[str, str]]:
    """Name -> the settings with which the process of this name takes part: the aggregator, workers and keepers."""
    admin = PrivateKeys.generate("admin", "admin")
    members = [
        PrivateKeys.generate("aggregator", AGGREGATOR),
        *(PrivateKeys.generate("keeper", name) for name in keepers),
        *(PrivateKeys.generate("worker", name) for name in workers),
    ]
    folder.mkdir(mode=0o700)
    roster = Roster(federation="bench", admin=admin.public.signing_key)
    roster.with_members([member.public for member in members]).save(folder / "roster.yaml", admin)
    known = {"FEDMQ_ROSTER": str(folder / "roster.yaml"), "FEDMQ_ROSTER_KEY": admin.public.fingerprint}
    return {member.public.name: known | {"FEDMQ_KEY": str(member.save(folder))} for member in members}
