"""`docker compose --profile private up`: a keeper with user, keys and volume of its own, and members who know it."""

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from identities import Roster
from operations.keys_cli import main as fl_keys

ROOT = Path(__file__).parents[3]
SERVICES: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))["services"]
SCRIPTS = ROOT / "deploy" / "private"
NUM_SITES = 8


def variables(service: str) -> dict[str, str]:
    environment: dict[str, str] = SERVICES[service]["environment"]
    return environment


def test_the_keeper_is_in_the_profile_private_alone_and_nobody_else_has_its_volume() -> None:
    assert {name for name, service in SERVICES.items() if service.get("profiles") == ["private"]} == {
        "members",
        "keeper",
    }
    assert SERVICES["keeper"]["command"] == ["fl-keeper"]
    users = {
        name for name, each in SERVICES.items() for volume in each.get("volumes", ()) if volume.startswith("keeper:")
    }
    assert users == {"members", "keeper"}
    assert variables("keeper")["FEDMQ_BROKER"].startswith("amqp://keeper:")
    assert variables("keeper")["FEDMQ_STATE"].startswith("/keeper/")


def test_aggregator_and_workers_wait_for_the_keys_only_where_there_are_some() -> None:
    for name in ("aggregator", "worker"):
        waits = SERVICES[name]["depends_on"]["members"]
        assert waits == {"condition": "service_completed_successfully", "required": False}
        assert SERVICES[name]["command"] == ["sh", "/deploy/start.sh", f"fl-{name}"]
    assert "rm -f /members/private" in SERVICES["users"]["command"][2]


@pytest.fixture
def scripts(tmp_path: Path) -> Path:
    """The scripts as they are in their containers, with the containers' folders below ``tmp_path``."""
    for folder in ("members", "aggregator", "keeper", "state", "bin"):
        (tmp_path / folder).mkdir()
    for path in SCRIPTS.iterdir():
        text = path.read_text(encoding="utf-8")
        for folder in ("members", "aggregator", "keeper", "state"):
            text = text.replace(f"/{folder}/", f"{tmp_path}/{folder}/").replace(
                f"cd /{folder}\n", f"cd {tmp_path}/{folder}\n"
            )
        (tmp_path / path.name).write_text(text, encoding="utf-8")
    return tmp_path


def started(scripts: Path, command: str, **environment: str) -> dict[str, str]:
    """The environment that ``start.sh`` starts a command with."""
    shown = scripts / "bin" / command
    shown.write_text("#!/bin/sh\nenv\n", encoding="utf-8")
    shown.chmod(0o755)
    path = f"{scripts / 'bin'}:{os.environ['PATH']}"
    env = {"PATH": path, "FEDMQ_RUN": "federation", "MIN_SITES": "3"} | environment
    found = subprocess.run(
        ["sh", str(scripts / "start.sh"), command], env=env, check=True, capture_output=True, text=True, timeout=20
    )
    return dict(line.split("=", 1) for line in found.stdout.splitlines() if line.startswith("FEDMQ_"))


def with_keys(scripts: Path) -> None:
    """What members.sh leaves, made in this process: nine starts of Python take a while."""
    keys, roster = scripts / "members" / "keys", scripts / "members" / "roster.yaml"
    made = {"admin": "admin", "aggregator": "aggregator", "keeper": "keeper"}
    made |= {f"site-{number}": "worker" for number in range(1, NUM_SITES + 1)}
    for name, role in made.items():
        assert fl_keys(["new", name, "--role", role, "--keys", str(keys)]) == 0
    public = [str(keys / f"{name}.pub") for name in made if name != "admin"]
    admin = ["--key", str(keys / "admin.key"), "--roster", str(roster)]
    assert fl_keys(["roster", "--federation", "demo", *admin, *public]) == 0
    (scripts / "members" / "taken").mkdir()
    (scripts / "members" / "private").write_text("1")


def test_the_same_commands_start_as_they_are_without_the_profile(scripts: Path) -> None:
    assert started(scripts, "fl-aggregator") == {"FEDMQ_RUN": "federation"}
    assert started(scripts, "fl-worker", FEDMQ_NAME="site-*") == {"FEDMQ_RUN": "federation", "FEDMQ_NAME": "site-*"}


def test_with_the_profile_each_worker_is_a_site_of_its_own_and_stays_it_when_it_restarts(scripts: Path) -> None:
    with_keys(scripts)
    aggregator = started(scripts, "fl-aggregator")
    assert aggregator["FEDMQ_PRIVACY"] == "secure"
    assert aggregator["FEDMQ_RUN"] == "federation-private"
    roster = Roster.read(Path(aggregator["FEDMQ_ROSTER"])).unchecked()
    assert aggregator["FEDMQ_KEEPER"] in roster.keepers
    names = []
    for number in range(NUM_SITES):
        state = scripts / "state" / "site"
        state.unlink(missing_ok=True)
        worker = started(scripts, "fl-worker", FEDMQ_NAME="site-*")
        assert started(scripts, "fl-worker", FEDMQ_NAME="site-*") == worker
        assert Path(worker["FEDMQ_KEY"]).is_file()
        assert (worker["FEDMQ_REQUIRE"], worker["FEDMQ_MIN_SITES"]) == ("secure", "3")
        names.append(worker["FEDMQ_NAME"])
        assert len(set(names)) == number + 1
    assert set(names) == set(roster.sites)


def test_members_sh_makes_a_roster_of_all_once(scripts: Path) -> None:
    calls = scripts / "calls"
    fake = scripts / "bin" / "fl-keys"
    fake.write_text(
        f'#!/bin/sh\necho "$@" >> {calls}\n[ "$1" = roster ] && touch roster.yaml || true\n', encoding="utf-8"
    )
    fake.chmod(0o755)
    env = {"PATH": f"{scripts / 'bin'}:{os.environ['PATH']}"}
    for _ in range(2):
        subprocess.run(["sh", str(scripts / "members.sh")], env=env, check=True, timeout=20)
    lines = calls.read_text().splitlines()
    assert [line.split()[0] for line in lines] == ["new"] * (3 + NUM_SITES) + ["roster"]
    assert f"new keeper --role keeper --keys {scripts}/keeper/keys" in lines
    assert (scripts / "members" / "taken").is_dir()
    assert (scripts / "members" / "private").read_text().strip().isdigit()
