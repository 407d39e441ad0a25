"""A worker's name, device, settings and heartbeat."""

import re
import socket
import tempfile
import threading
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from broker.rabbitmq.queues import SIGNS
from broker.wire.messages import MAX_PRESENCE_EVERY_S
from console.errors import ExitCode, SettingsError
from console.heartbeat import Heartbeat
from console.settings import read_settings
from identities import PrivateKeys, Roster
from learning import Site
from worker.cli import main
from worker.name import name_of_machine
from worker.settings import Protections, WorkerSettings


@pytest.fixture(autouse=True)
def own_temporary_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))


def test_workers_without_a_name_on_one_machine_have_different_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: "box")
    held = [name_of_machine() for _ in range(3)]
    assert [name for name, _ in held] == ["box", "box-2", "box-3"]
    held[1][1].close()
    again, lock = name_of_machine()
    assert again == "box-2"
    for file in (lock, held[0][1], held[2][1]):
        file.close()


def test_workers_of_which_the_names_begin_alike_are_told_apart_by_machine_and_number(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: "box")
    given = WorkerSettings(name="site-*")
    held = [name_of_machine(given.name_prefix) for _ in range(2)]
    assert [name for name, _ in held] == ["site-box", "site-box-2"]
    assert given.own_name is None
    assert (WorkerSettings(name="*").name_prefix, WorkerSettings().name_prefix) == ("", "")
    assert WorkerSettings(name="hospital-a").own_name == "hospital-a"
    for _, lock in held:
        lock.close()


@pytest.mark.parametrize("host", ["pc.example.org", "Müller's Laptop", "x" * 300, "", "a b/c", ".."])
def test_a_name_made_of_any_host_name_is_a_worker_s_name(monkeypatch: pytest.MonkeyPatch, host: str) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: host)
    for prefix in ("", "p" * 32):
        name, lock = name_of_machine(prefix)
        assert re.fullmatch(prefix + r"[A-Za-z0-9_-]{1,64}", name)
        WorkerSettings(name=name)
        lock.close()


def test_machines_with_long_names_that_differ_only_at_their_end_have_names_that_differ(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """So are pods called."""
    names = set()
    for pod in ("x7k2p", "m3b9q"):
        monkeypatch.setattr(socket, "gethostname", lambda pod=pod: f"{'federation-' * 4}worker-gpu-5d4f8b7c9d-{pod}")
        name, lock = name_of_machine("gpu-")
        names.add(name)
        lock.close()
    assert len(names) == 2


def test_a_name_whose_lock_belongs_to_another_user_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """/tmp is everybody's: the file may be there and not ours to open."""
    monkeypatch.setattr(socket, "gethostname", lambda: "box")
    original = Path.open

    def open_(self: Path, *arguments: Any, **keywords: Any) -> Any:
        if self.name == "fl-worker-box.lock":
            raise PermissionError(13, "Permission denied", str(self))
        return original(self, *arguments, **keywords)

    monkeypatch.setattr(Path, "open", open_)
    name, lock = name_of_machine()
    assert name == "box-2"
    lock.close()


def test_a_site_is_what_was_set_or_follows_from_the_name() -> None:
    assert WorkerSettings().site_of("a") == Site(name="a", partition="iid")
    settings = WorkerSettings(site="2/8", partition="dirichlet:0.5", partition_seed=7)
    assert settings.site_of("a") == Site(name="a", partition="dirichlet:0.5", index=2, num_sites=8, seed=7)


@pytest.mark.parametrize(
    "changes",
    [
        {"site": "8/8"},
        {"site": "1"},
        {"site": "-1/8"},
        {"site": "a/b"},
        {"site": "1/8/9"},
        {"site": "²/8"},
        {"site": ""},
        {"name": "a b"},
        {"name": ""},
        {"name": "a.b"},
        {"name": "a*b"},
        {"name": "a**"},
        {"name": "p" * 33 + "*"},
        {"device": "gpu"},
        {"device": "cuda:x"},
        {"device": "cuda:0,"},
        {"device": "cuda:1,0,1"},
        {"device": "cpu,cuda:0"},
        {"threads": -1},
        {"presence_every_s": 0},
        {"presence_every_s": 0.09},
        {"presence_every_s": 60.1},
        {"presence_every_s": float("nan")},
        {"run": "a b"},
        {"surprise": 1},
    ],
)
def test_a_setting_out_of_its_range_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        WorkerSettings(**changes)


def test_an_interval_that_no_queue_keeps_is_refused_with_the_reason() -> None:
    with pytest.raises(SettingsError, match=r"--presence-every-s: expected 0.1 to 60 seconds: .* queue for 60 s"):
        read_settings(WorkerSettings, ["--presence-every-s", "600"], prog="fl-worker", description="", examples="")


def test_the_longest_interval_between_signs_of_life_is_as_long_as_one_stays_on_its_queue() -> None:
    assert SIGNS["x-message-ttl"] == 1000 * MAX_PRESENCE_EVERY_S
    assert WorkerSettings(presence_every_s=MAX_PRESENCE_EVERY_S).presence_every_s == 60


def test_a_heartbeat_beats_until_it_is_left_and_its_thread_ends() -> None:
    beats = threading.Semaphore(0)
    with Heartbeat(beats.release, every_s=lambda: 0.001):
        for _ in range(3):
            assert beats.acquire(timeout=20)
        assert "heartbeat" in {thread.name for thread in threading.enumerate()}
    assert "heartbeat" not in {thread.name for thread in threading.enumerate()}


def test_a_heartbeat_that_is_left_at_once_never_beats() -> None:
    beats: list[int] = []
    with Heartbeat(lambda: beats.append(1), every_s=lambda: 1000):
        pass
    assert not beats


def test_what_a_worker_requires_it_can_only_have_with_a_roster() -> None:
    with pytest.raises(ValidationError, match="--require needs --roster"):
        WorkerSettings.model_validate({"require": "signed"})
    with pytest.raises(ValidationError, match="--min-sites needs --roster"):
        WorkerSettings.model_validate({"min_sites": 3})
    assert WorkerSettings.model_validate({"require": "none"}).require.names == frozenset()


def test_what_a_worker_requires_is_named_in_any_order() -> None:
    assert Protections.parse("dp, secure") == Protections(frozenset({"secure", "dp"}))
    assert str(Protections.parse("secure,dp")) == "dp,secure"
    with pytest.raises(ValueError, match="expected some of signed, sealed, secure and dp"):
        Protections.parse("secret")


def test_check_refuses_a_key_that_is_not_on_the_roster_before_it_asks_the_broker(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    admin, stranger = PrivateKeys.generate("admin", "admin"), PrivateKeys.generate("worker", "hospital-a")
    Roster(federation="heart", admin=admin.public.signing_key).save(tmp_path / "roster.yaml", admin)
    key = stranger.save(tmp_path)
    roster = ("--roster", str(tmp_path / "roster.yaml"), "--roster-key", admin.public.fingerprint)

    code = main(["--check", *roster, "--key", str(key)])

    assert code == ExitCode.USAGE
    assert "hospital-a" in (said := capsys.readouterr().err)
    assert "nobody on the roster has key" in said
