"""What a figure depends on besides the code: the machine, the versions, the commit."""

import os
import platform
import subprocess
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path

import psutil

from benchmarks.figures import MB
from benchmarks.place import ROOT


def of_this_run(folder: Path) -> dict[str, str]:
    """The facts of this run, none of which identifies the machine."""
    return {
        "commit": _commit(),
        "cores": str(psutil.cpu_count()),
        "memory_mb": f"{psutil.virtual_memory().total / MB:.0f}",
        "load_before": f"{os.getloadavg()[0]:.1f}",
        "file_system": _file_system(folder),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        **{name: version(name) for name in ("torch", "numpy", "pika")},
    }


def _commit() -> str:
    with suppress(OSError, subprocess.CalledProcessError):
        command = ["git", "describe", "--always", "--dirty"]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()
    return "unknown"


def _file_system(folder: Path) -> str:
    """The file system of state and broker: in memory, syncing costs nothing."""
    path = folder.resolve()
    mounts = {Path(part.mountpoint): part.fstype for part in psutil.disk_partitions(all=True)}
    return next((mounts[one] for one in (path, *path.parents) if one in mounts), "unknown")
