"""A private RabbitMQ node for tests: own folder, own ports, own epmd, nothing shared with a system broker.

    with RabbitNode(tmp_path) as node:
        connection = pika.BlockingConnection(pika.URLParameters(node.url))

With RABBITMQ_CHROOT set to a folder with another RabbitMQ in it (`debootstrap --include=rabbitmq-server trixie DIR`),
nodes are of that version. Run by root; the nodes' own folders must have the same path inside as outside.

A node ends with the process that started it, however that process ends: a small guard holds the reading
end of a pipe whose writing end only the owner has, and kills the node's process group when the pipe closes.
"""

import atexit
import os
import random
import secrets
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import NoReturn

import psutil
import pytest

START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 20.0
CTL_TIMEOUT_S = 60.0

AMQP_HEADER = b"AMQP\x00\x00\x09\x01"
METHOD_FRAME = b"\x01"

# Erlang's own start script runs the node as whoever calls it. Debian's /usr/sbin/rabbitmq-server is a
# wrapper that insists on root and switches to the user rabbitmq, so its real script is looked for first.
CHROOT = os.environ.get("RABBITMQ_CHROOT", "")
INSIDE = ("chroot", CHROOT) if CHROOT else ()
SCRIPT_FOLDERS = (Path("/usr/lib/rabbitmq/bin"), Path("/usr/local/sbin"), Path("/opt/rabbitmq/sbin"))

# Ports below the kernel's ephemeral range: a client that reconnects to a dead port inside that range can
# be given the same port as its own source, connect to itself, and so keep the node from coming back.
PORTS = range(20_000, 30_000)


class NodeError(RuntimeError):
    """A node that did not start, stop or answer; the message ends with the tail of its logs."""


def find_scripts() -> Path | None:
    """Return the folder with the real rabbitmq-server and rabbitmqctl, or None where there is no RabbitMQ."""
    if CHROOT:
        return SCRIPT_FOLDERS[0]
    on_path = shutil.which("rabbitmq-server")
    folders = [*SCRIPT_FOLDERS, *([Path(on_path).resolve().parent] if on_path else [])]
    for folder in folders:
        if (folder / "rabbitmq-server").exists() and (folder / "rabbitmqctl").exists():
            return folder
    return None


def free_port() -> int:
    """Return a port of 127.0.0.1 that nobody listens on, and that no client is given as its source."""
    for port in random.SystemRandom().sample(PORTS, 200):
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise NodeError(f"no free port between {PORTS.start} and {PORTS.stop}")


def wait_until(claim: Callable[[], bool], *, timeout_s: float) -> bool:
    """Return True as soon as `claim()` holds, False when it does not within `timeout_s`."""
    deadline = time.monotonic() + timeout_s
    while not claim():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


class GuardedProcess:
    """A child in its own session and process group that does not outlive this process."""

    def __init__(self, args: Sequence[str | Path], env: Mapping[str, str], output: Path) -> None:
        with output.open("wb") as sink:
            self._child = subprocess.Popen(
                args,
                env=env,
                cwd=output.parent,
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=sink,
                start_new_session=True,
            )
        self._guard = subprocess.Popen(
            ["/bin/sh", "-c", 'read -r _ || kill -9 "-$1"', "guard", str(self.pid)],
            stdin=subprocess.PIPE,
            start_new_session=True,
        )

    @property
    def pid(self) -> int:
        return self._child.pid

    @property
    def is_running(self) -> bool:
        return self._child.poll() is None

    def terminate(self, *, timeout_s: float) -> None:
        """End the process in order, by force after `timeout_s`; return when the whole family is gone."""
        family = self._family()
        if self.is_running:
            self._child.terminate()
            with suppress(subprocess.TimeoutExpired):
                self._child.wait(timeout_s)
        self._finish(family)

    def kill(self) -> None:
        """SIGKILL the process and return when the whole family is gone."""
        self._finish(self._family())

    def _family(self) -> list[psutil.Process]:
        try:
            return psutil.Process(self.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            return []

    def _finish(self, family: list[psutil.Process]) -> None:
        if self.is_running:
            self._child.kill()
            self._child.wait()
        # Erlang's helpers leave by themselves once their pipe to the node is closed.
        _, stubborn = psutil.wait_procs(family, timeout=5)
        for process in stubborn:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        with suppress(BrokenPipeError):
            self._guard.communicate(b"done\n", timeout=5)


@dataclass(frozen=True, slots=True)
class Peers:
    """What the nodes of one cluster share."""

    cookie: str
    epmd_port: int


class RabbitNode:
    """One RabbitMQ node below `folder`.

    `extra_config` holds further lines of rabbitmq.conf; a key given there replaces this class's own value.
    `advanced_config` holds Erlang terms for advanced.config.
    The plain listener on `port` always stays. `plugins` names the plugins to enable, none by default.
    Nodes with the same `peers` can form a cluster; the first that starts brings the epmd of all, and has to stop last.
    The node keeps its ports and its data over `stop()`, `kill()` and `restart()`.
    """

    def __init__(
        self,
        folder: Path,
        *,
        name: str | None = None,
        extra_config: str = "",
        advanced_config: str = "",
        plugins: Sequence[str] = (),
        peers: Peers | None = None,
    ) -> None:
        self.folder = folder.resolve()
        self.port = free_port()
        self.name = name or f"fedmq-{secrets.token_hex(4)}@localhost"
        self._extra_config, self._advanced_config = extra_config, advanced_config
        self._plugins = tuple(plugins)
        self._cookie = secrets.token_hex(16) if peers is None else peers.cookie
        self._epmd_port = free_port() if peers is None else peers.epmd_port
        self._dist_port = free_port()
        self._beam: GuardedProcess | None = None
        self._epmd: GuardedProcess | None = None

    @property
    def url(self) -> str:
        return f"amqp://guest:guest@127.0.0.1:{self.port}/"

    @property
    def pid(self) -> int:
        """The process id of the Erlang virtual machine."""
        if self._beam is None:
            raise NodeError(f"{self.name} is not running")
        return self._beam.pid

    @property
    def is_running(self) -> bool:
        return self._beam is not None and self._beam.is_running

    def __enter__(self) -> "RabbitNode":
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self, *, timeout_s: float = START_TIMEOUT_S) -> None:
        """Start the node and return when it speaks AMQP on `port`."""
        if self.is_running:
            return
        self.kill()  # what is left of one that somebody else killed
        scripts = self._scripts()
        self.bring_epmd()
        self._beam = GuardedProcess([*INSIDE, scripts / "rabbitmq-server"], self._env(), self._log / "console.log")
        answered = wait_until(lambda: self._speaks_amqp() or not self.is_running, timeout_s=timeout_s)
        if not self.is_running:
            self._give_up("ended while it started")
        if not answered:
            self._give_up(f"did not answer on port {self.port} within {timeout_s:g} s")

    def bring_epmd(self) -> None:
        """Start the epmd, unless the node or one of its peers has."""
        self._write_files()
        atexit.register(self._end_at_exit)
        self._start_epmd()

    def stop(self) -> None:
        """Shut the node and its epmd down in order; the data stays in `folder`."""
        # The node first: it watches its epmd, and would start another, as a daemon, in place of a lost one.
        self.shut_down()
        if self._epmd is not None:
            self._epmd.terminate(timeout_s=STOP_TIMEOUT_S)
            self._epmd = None
        atexit.unregister(self._end_at_exit)

    def shut_down(self) -> None:
        """Shut the node alone down in order; its epmd stays, for others of its cluster."""
        if self._beam is not None:
            self._beam.terminate(timeout_s=STOP_TIMEOUT_S)
            self._beam = None

    def kill(self) -> None:
        """Kill the node as a power cut of the process would (SIGKILL); `start()` brings it back."""
        if self._beam is not None:
            self._beam.kill()
            self._beam = None

    def restart(self) -> None:
        """Stop the node if it runs, and start it again on the same ports with the same data."""
        self.stop()
        self.start()

    def ctl(self, *args: str) -> str:
        """Return what `rabbitmqctl ARGS` against this node prints; raise NodeError when it fails."""
        return self._do("rabbitmqctl", "--quiet", *args)

    def shell(self, script: str, *, timeout_s: float = CTL_TIMEOUT_S) -> str:
        """Return what a shell prints that runs `script`, in which `rabbitmqctl` is for this node."""
        return self._do("sh", "-ec", f"PATH={self._scripts()}:$PATH\n{script}", timeout_s=timeout_s)

    def _do(self, name: str, *args: str, timeout_s: float = CTL_TIMEOUT_S) -> str:
        path = self._scripts() / name if name == "rabbitmqctl" else name
        done = subprocess.run(
            [*INSIDE, path, *args],
            env=self._env(),
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout_s,
        )
        if done.returncode:
            said = done.stderr.strip() or done.stdout.strip()
            raise NodeError(f"{' '.join((name, *args))} ended with {done.returncode}: {said}")
        return done.stdout

    def log_tail(self, *, num_lines: int = 20) -> str:
        """Return the first errors and the last lines of what this start printed and of the node's log."""
        parts = []
        for name in ("epmd.log", "console.log", "rabbit.log"):
            file = self._log / name
            lines = file.read_text(errors="replace").splitlines() if file.exists() else []
            errors = [line for line in lines[:-num_lines] if "[error]" in line]
            parts += [f"--- {name}", *errors[:num_lines], *(["…"] if errors else []), *lines[-num_lines:]]
        return "\n".join(parts)

    @property
    def _log(self) -> Path:
        return self.folder / "log"

    def _scripts(self) -> Path:
        scripts = find_scripts()
        if scripts is None:
            raise NodeError("no rabbitmq-server on this machine: install the package rabbitmq-server")
        return scripts

    def _start_epmd(self) -> None:
        if (self._epmd is not None and self._epmd.is_running) or _accepts(self._epmd_port):
            return
        epmd = "/usr/bin/epmd" if CHROOT else shutil.which("epmd")
        if epmd is None:
            raise NodeError("no epmd on PATH: it comes with Erlang, next to rabbitmq-server")
        args = [*INSIDE, epmd, "-port", str(self._epmd_port), "-address", "127.0.0.1"]  # no -daemon: stays our child
        self._epmd = GuardedProcess(args, self._env(), self._log / "epmd.log")
        if not wait_until(lambda: _accepts(self._epmd_port), timeout_s=10):
            self._give_up(f"has no epmd: it did not answer on port {self._epmd_port}")

    def _give_up(self, problem: str) -> NoReturn:
        tail = self.log_tail()
        self.stop()
        raise NodeError(f"{self.name} {problem}; its logs:\n{tail}")

    def _write_files(self) -> None:
        for name in ("home", "log", "data", "etc"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        cookie = self.folder / "home" / ".erlang.cookie"
        if not cookie.exists():
            cookie.touch(mode=0o600)
            cookie.write_text(self._cookie)
            cookie.chmod(0o400)
        etc = self.folder / "etc"
        (etc / "rabbitmq.conf").write_text(self._config())
        (etc / "rabbitmq-env.conf").touch()
        (etc / "advanced.config").write_text(f"[{self._advanced_config}].\n")
        (etc / "enabled_plugins").write_text(f"[{','.join(self._plugins)}].\n")

    def _config(self) -> str:
        own = {
            "listeners.tcp.1": f"127.0.0.1:{self.port}",
            "loopback_users": "none",
            "log.file.level": "info",
            "disk_free_limit.absolute": "50MB",
            "vm_memory_high_watermark.relative": "0.6",
            # RabbitMQ 4's default, so that a body too large for it fails on 3.x as well
            "max_message_size": "16777216",
            "raft.wal_max_size_bytes": "64000000",
            "raft.segment_max_entries": "128",
        }
        given = {line.partition("=")[0].strip() for line in self._extra_config.splitlines()}
        lines = [f"{key} = {value}" for key, value in own.items() if key not in given]
        return "\n".join([*lines, self._extra_config.strip(), ""])

    def _env(self) -> dict[str, str]:
        """The caller's environment, less what speaks to Erlang or RabbitMQ, and this node's own."""
        foreign = ("RABBITMQ_", "ERL_", "NOTIFY_SOCKET", "XDG_")
        env = {key: value for key, value in os.environ.items() if not key.startswith(foreign)}
        etc, data = self.folder / "etc", self.folder / "data"
        loopback_only = "-kernel inet_dist_use_interface {127,0,0,1}"
        return env | {
            "HOME": str(self.folder / "home"),
            "LANG": "C.UTF-8",
            "LC_ALL": "C.UTF-8",
            "ERL_EPMD_PORT": str(self._epmd_port),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "ERL_CRASH_DUMP": str(self._log / "erl_crash.dump"),
            # rabbitmq-server then becomes the virtual machine instead of a shell that waits for it,
            # so that its pid is the one to signal.
            "RUNNING_UNDER_SYSTEMD": "true",
            "RABBITMQ_NODENAME": self.name,
            "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODE_PORT": str(self.port),
            "RABBITMQ_DIST_PORT": str(self._dist_port),
            "RABBITMQ_MNESIA_BASE": str(data),
            "RABBITMQ_LOG_BASE": str(self._log),
            "RABBITMQ_LOGS": str(self._log / "rabbit.log"),
            "RABBITMQ_CONFIG_FILE": str(etc / "rabbitmq.conf"),
            "RABBITMQ_CONFIG_FILES": str(etc / "conf.d"),
            "RABBITMQ_ADVANCED_CONFIG_FILE": str(etc / "advanced.config"),
            "RABBITMQ_CONF_ENV_FILE": str(etc / "rabbitmq-env.conf"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(etc / "enabled_plugins"),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": loopback_only,
            "RABBITMQ_CTL_ERL_ARGS": loopback_only,
        }

    def _speaks_amqp(self) -> bool:
        """True when the port answers the protocol header with a method frame (Connection.Start)."""
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=2) as connection:
                connection.sendall(AMQP_HEADER)
                return connection.recv(1) == METHOD_FRAME
        except OSError:
            return False

    def _end_at_exit(self) -> None:
        for process in (self._beam, self._epmd):
            if process is not None:
                process.kill()


def _accepts(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


def skip_without_rabbitmq() -> None:
    """Skip where RabbitMQ is not installed, but fail where the run has promised one."""
    if find_scripts() is not None:
        return
    reason = "no rabbitmq-server on this machine (apt install rabbitmq-server)"
    if os.environ.get("CI", "").lower() in {"1", "true"} or os.environ.get("FEDMQ_REQUIRE_BROKER"):
        pytest.fail(reason)
    pytest.skip(reason)
