"""The peers' own virtual environments: their requirements conflict with those of fedmq and with each other.

``peers`` in pyproject.toml gives their versions; what else the scripts need has the versions of constraints.txt.
"""

import re
import subprocess
import sys
import tomllib
from collections.abc import Mapping
from pathlib import Path

from benchmarks.place import ROOT, Failed

FLOWER, NVFLARE = "flwr", "nvflare"
_BESIDE: Mapping[str, tuple[str, ...]] = {FLOWER: ("numpy",), NVFLARE: ("numpy", "torch")}
_INSTALLS_WITHIN_S = 900.0


def environment(name: str, folder: Path) -> Path:
    """The virtual environment with this peer, made if it does not exist; that takes minutes."""
    wanted = requirements(name)
    home = folder.absolute() / name
    stamp = home / ".installed"
    if not stamp.exists() or stamp.read_text(encoding="utf-8") != "\n".join(wanted):
        _call([sys.executable, "-m", "venv", "--clear", str(home)])
        _call([str(home / "bin" / "python"), "-m", "pip", "install", "--quiet", *wanted])
        stamp.write_text("\n".join(wanted), encoding="utf-8")
    return home


def requirements(name: str) -> list[str]:
    """What to install for this peer: itself first."""
    return [_peers()[name], *(_pinned(beside) for beside in _BESIDE[name])]


def _peers() -> dict[str, str]:
    """Name -> requirement."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return {re.split(r"\W", text)[0]: text for text in project["optional-dependencies"]["peers"]}


def _pinned(name: str) -> str:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    return next(line for line in lines if line.startswith(f"{name}=="))


def _call(args: list[str]) -> None:
    try:
        subprocess.run(args, check=True, capture_output=True, text=True, timeout=_INSTALLS_WITHIN_S)
    except subprocess.CalledProcessError as error:
        raise Failed(f"{' '.join(args[1:4])} …: {error.stderr.strip().splitlines()[-1]}") from error
    except subprocess.TimeoutExpired as error:
        raise Failed(f"{' '.join(args[1:4])} … took more than {_INSTALLS_WITHIN_S:g} s") from error
