"""NVFLARE under a workload: its simulator, with a process for each client, over TCP on loopback."""

from pathlib import Path

from benchmarks.figures import Row
from benchmarks.monitor import Monitor
from benchmarks.peers.foreign import EVERY_S, SCRIPTS, environment_of, row, wait_for_rounds
from benchmarks.place import Place
from benchmarks.workload import Workload

SIMULATOR = "NVFLARE simulator"
_CLIENT_MODULE = "simulator_worker"
"""A word in the command line of a client's process; the simulator, which is the server, starts these processes."""


def simulator(workload: Workload, place: Place, home: Path) -> Row:
    with place.room("nvflare") as room, room.commands() as commands:
        opened = room.folder / "opened"
        flags = ["--bytes", str(workload.num_bytes), "--rounds", str(workload.rounds_to_run)]
        flags += ["--workers", str(workload.num_workers), "--opened", str(opened)]
        job = commands.start(
            [
                str(home / "bin" / "python"),
                str(SCRIPTS / "nvflare_job.py"),
                *flags,
                "--workspace",
                str(room.folder / "workspace"),
            ],
            name="job",
            env=environment_of(home, PYTHONPATH=str(SCRIPTS)),
        )
        moves = {_CLIENT_MODULE: "worker"}
        with Monitor({"aggregator": [job.pid]}, every_s=EVERY_S, follows_children=True, moves=moves) as monitor:
            wait_for_rounds(opened, workload, monitor, while_running=[job])
        return row(workload, SIMULATOR, opened, monitor, note="nothing is durable")
