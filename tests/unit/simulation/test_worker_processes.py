"""What a simulation over RabbitMQ starts: its workers, as fl-worker would be started at a site."""

import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest

from broker.settings import WireSettings
from console.errors import FedmqError
from console.settings import read_settings
from simulation.processes import WorkerProcesses
from simulation.settings import SimulationSettings
from worker.settings import WorkerSettings

BROKER = "amqp://user:secret@broker:5672/"


@pytest.fixture
def wire(tmp_path: Path) -> dict[str, Any]:
    """Of each setting of the wire, another value than by default; a new one wants a line here."""
    for name in ("ca", "cert", "key"):
        (tmp_path / f"{name}.pem").touch()
    wanted = {
        "log_level": "DEBUG",
        "log_format": "json",
        "live": False,
        "tls_ca": tmp_path / "ca.pem",
        "tls_cert": tmp_path / "cert.pem",
        "tls_key": tmp_path / "key.pem",
        "connect_timeout_s": 0.5,
        "heartbeat_s": 7,
        "blocked_timeout_s": 12.5,
        "inline_cap": 0,
        "trusted_network": True,
    }
    assert wanted.keys() == WireSettings.model_fields.keys()
    assert all(WireSettings.model_fields[name].default != value for name, value in wanted.items())
    return wanted


class Started:
    """A process that only remembers how it was started."""

    all: list["Started"]

    def __init__(self, args: Sequence[str], *, env: Mapping[str, str], stdout: Any, **others: Any) -> None:
        self.flags = list(args)[3:]
        self.env = dict(env)
        self.stdin = open("/dev/null", "wb")  # noqa: SIM115
        Started.all.append(self)

    def wait(self, timeout_s: float | None = None) -> int:
        return 0


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[Started]:
    """Whatever is started from now on."""
    monkeypatch.setattr(subprocess, "Popen", Started)
    Started.all = []
    return Started.all


def processes(settings: SimulationSettings, logs: Path) -> WorkerProcesses:
    return WorkerProcesses(settings, queue="updates", logs=logs, identities={}, on_failure=lambda: None)


def test_a_worker_has_every_setting_of_the_wire_that_the_simulation_has(
    tmp_path: Path, wire: dict[str, Any], started: list[Started], monkeypatch: pytest.MonkeyPatch
) -> None:
    with processes(SimulationSettings(broker=BROKER, workers=1, **wire), tmp_path):  # type: ignore[arg-type]
        pass
    for name, value in started[0].env.items():
        monkeypatch.setenv(name, value)

    settings = read_settings(WorkerSettings, started[0].flags, prog="fl-worker", description="", examples="")

    assert {name: getattr(settings, name) for name in wire} == wire
    assert settings.broker.get_secret_value() == BROKER


def test_no_worker_reads_a_setting_that_is_not_the_simulation_s(
    tmp_path: Path, started: list[Started], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FEDMQ_THREADS", "5")
    with processes(SimulationSettings(broker=BROKER, workers=2), tmp_path):
        pass
    assert len(started) == 2
    wanted = {f"FEDMQ_{name.upper()}" for name in ("broker", "task_args", *WireSettings.model_fields)}
    assert [{name for name in each.env if name.startswith("FEDMQ_")} for each in started] == [wanted] * 2


def test_each_worker_reads_the_name_and_the_arguments_of_its_own_site(tmp_path: Path, started: list[Started]) -> None:
    sites = {"north": {"csv": 'a,"b".csv'}, "south": {}}
    given = SimulationSettings(broker=BROKER, sites=sites, task_args={"csv": "all.csv"})  # type: ignore[arg-type]
    with processes(given, tmp_path):
        pass
    read = []
    for each in started:
        with pytest.MonkeyPatch.context() as patch:
            for name, value in each.env.items():
                patch.setenv(name, value)
            settings = read_settings(WorkerSettings, each.flags, prog="fl-worker", description="", examples="")
            read.append((settings.name, dict(settings.task_args)))
    assert read == [("north", {"csv": 'a,"b".csv'}), ("south", {"csv": "all.csv"})]


def test_the_broker_s_url_is_on_no_command_line(tmp_path: Path, started: list[Started]) -> None:
    with processes(SimulationSettings(broker=BROKER, workers=2), tmp_path):
        pass
    assert len(started) == 2
    assert not any("secret" in word for each in started for word in each.flags)


@pytest.fixture
def leaves_nobody() -> Iterator[None]:
    before = set(psutil.Process().children())
    yield
    assert set(psutil.Process().children()) == before


@pytest.mark.usefixtures("leaves_nobody")
def test_when_one_cannot_be_started_those_before_it_are_told_to_leave(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = WorkerProcesses._start

    def start_but_the_third(self: WorkerProcesses, index: int) -> None:
        if index == 2:
            raise OSError("no process left")
        start(self, index)

    monkeypatch.setattr(WorkerProcesses, "_start", start_but_the_third)
    with pytest.raises(OSError, match="no process left"):
        processes(SimulationSettings(broker="amqp://127.0.0.1:1/", workers=3), tmp_path).__enter__()


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_a_worker_that_fails_is_named_with_what_it_said_last(tmp_path: Path, log_format: Any) -> None:
    own = SimulationSettings(broker="amqp://127.0.0.1:1/", workers=1, connect_timeout_s=0, log_format=log_format)
    with processes(own, tmp_path) as workers:
        workers._watchers[0].join()
    with pytest.raises(FedmqError, match=r"^worker-0 exited with code 4: (fl-worker: )?no broker at "):
        workers.check()
