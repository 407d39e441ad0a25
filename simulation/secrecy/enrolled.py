"""The keys of a simulation's members as files, for workers that are processes of their own."""

from collections.abc import Mapping
from pathlib import Path

from console import ENV_PREFIX
from simulation.secrecy.members import Secrecy


def enrolled(secrecy: Secrecy | None, folder: Path) -> Mapping[str, Mapping[str, str]]:
    """Site -> the environment in which its worker takes part; empty without secrecy.

    The files are in ``folder``, for this user alone. They follow from the secret, so those that are there stay.
    """
    if secrecy is None:
        return {}
    members = secrecy.members
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    roster = folder / "roster.yaml"
    if not roster.exists():
        members.roster.save(roster, members.admin)
    known = {f"{ENV_PREFIX}ROSTER": str(roster), f"{ENV_PREFIX}ROSTER_KEY": members.roster.admin_fingerprint}
    environments = {}
    for site in secrecy.sites:
        key = folder / f"{site}.key"
        if not key.exists():
            members.keys[site].save(folder)
        environments[site] = known | {f"{ENV_PREFIX}KEY": str(key)}
    return environments
