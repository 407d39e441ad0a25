"""Flower under a workload: its deployment engine, and its deprecated stream, which keeps everything in memory.

Everything runs on loopback, without telemetry, without TLS.
"""

from pathlib import Path

from rabbitmq_node import free_port

from benchmarks.figures import Row
from benchmarks.monitor import Monitor
from benchmarks.peers.foreign import EVERY_S, SCRIPTS, environment_of, row, wait_for_port, wait_for_rounds
from benchmarks.place import Place
from benchmarks.workload import Workload

DEPLOYMENT, STREAM = "Flower deployment engine", "Flower deprecated stream"
_FEDERATION = "bench"


def deployment(workload: Workload, place: Place, home: Path) -> Row:
    """A SuperLink, a SuperNode for each worker, and an app that is submitted to them."""
    with place.room("flower") as room, room.commands() as commands:
        port, opened = free_port(), room.folder / "opened"
        env = _environment(home, room.folder, port)
        host = ("--insecure", "--host", "127.0.0.1", "--port")
        link = commands.start(
            [_program(home, "flower-superlink"), *host, str(port), "--disable-runtime-dependency-installation"],
            name="superlink",
            env=env,
        )
        wait_for_port(port, link)
        node = (_program(home, "flower-supernode"), "--superlink", f"127.0.0.1:{port}", *host)
        nodes = [
            commands.start(
                [*node, str(free_port()), "--node-config", f"partition-id={index}"],
                name=f"supernode-{index}",
                env=env,
            )
            for index in range(workload.num_workers)
        ]
        with _monitor(link.pid, [node.pid for node in nodes]) as monitor:
            submit = [_program(home, "flwr"), "run", str(SCRIPTS / "flower_app"), _FEDERATION, "-c"]
            commands.start([*submit, _told(workload, opened)], name="run", env=env)
            wait_for_rounds(opened, workload, monitor, while_running=[link, *nodes])
        return row(workload, DEPLOYMENT, opened, monitor, note="state in memory, as by default")


def stream(workload: Workload, place: Place, home: Path) -> Row:
    """start_server and start_client: one gRPC stream a client."""
    with place.room("flower") as room, room.commands() as commands:
        port, opened = free_port(), room.folder / "opened"
        env = _environment(home, room.folder, port)
        script = [_program(home, "python"), str(SCRIPTS / "flower_stream.py"), "--address", f"127.0.0.1:{port}"]
        size = ["--bytes", str(workload.num_bytes), "--rounds", str(workload.rounds_to_run)]
        size += ["--workers", str(workload.num_workers), "--opened", str(opened)]
        server = commands.start([*script, "server", *size], name="server", env=env)
        wait_for_port(port, server)
        clients = [
            commands.start([*script, "client", "--index", str(index)], name=f"client-{index}", env=env)
            for index in range(workload.num_workers)
        ]
        with _monitor(server.pid, [client.pid for client in clients]) as monitor:
            wait_for_rounds(opened, workload, monitor, while_running=[server])
        return row(workload, STREAM, opened, monitor, note="nothing is durable")


def _program(home: Path, name: str) -> str:
    return str(home / "bin" / name)


def _told(workload: Workload, opened: Path) -> str:
    """The app's configuration for this run, as TOML."""
    numbers = {"rounds": workload.rounds_to_run, "bytes": workload.num_bytes, "workers": workload.num_workers}
    return " ".join(f"{name}={number}" for name, number in numbers.items()) + f' opened="{opened}"'


def _environment(home: Path, folder: Path, port: int) -> dict[str, str]:
    settings = folder / "flwr-home"
    settings.mkdir()
    (settings / "config.toml").write_text(
        f'[superlink]\ndefault = "{_FEDERATION}"\n\n[superlink.{_FEDERATION}]\naddress = "127.0.0.1:{port}"\n'
        "insecure = true\n",
        encoding="utf-8",
    )
    return environment_of(
        home,
        FLWR_HOME=str(settings),
        FLWR_TELEMETRY_ENABLED="0",
        FLWR_DISABLE_UPDATE_CHECK="1",
        FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION="1",
    )


def _monitor(server: int, clients: list[int]) -> Monitor:
    return Monitor({"aggregator": [server], "worker": clients}, every_s=EVERY_S, follows_children=True)
