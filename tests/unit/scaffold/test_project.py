"""What fl-init writes runs as it is, and every setting in it is one that the commands take."""

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

import scaffold.cli
from aggregator.settings import AggregatorSettings
from console.errors import ExitCode, SettingsError
from console.flags import GROUP_OF, described
from console.settings import read_settings
from scaffold.cli import FILES, write_project
from scaffold.commands import COMMANDS
from scaffold.project_settings import TEMPLATES
from scaffold.settings_page import page
from simulation.cli import main as simulate
from simulation.settings import SimulationSettings
from worker.settings import WorkerSettings

ROOT = Path(__file__).parents[3]


@pytest.fixture
def project(tmp_path: Path) -> Path:
    write_project(tmp_path / "my_project")
    return tmp_path / "my_project"


def uncommented(path: Path) -> str:
    """The file with every setting that is a comment put to use."""
    return re.sub(r"^( *)#(\w+: )", r"\1\2", path.read_text(encoding="utf-8"), flags=re.MULTILINE)


def settings_in(text: str) -> Iterator[str]:
    return (match[1] for match in re.finditer(r"^ *#?(\w+): ", text, flags=re.MULTILINE))


def variables(path: Path) -> dict[str, str]:
    lines = path.read_text(encoding="utf-8").splitlines()
    return dict(line.split("=", 1) for line in lines if "=" in line and line[0] != "#")


def test_the_project_runs_as_it_is(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(project)
    assert simulate(["--config", "run.yaml"]) == 0
    assert "after 10 rounds" in capsys.readouterr().out
    (summary,) = (json.loads(path.read_text()) for path in (project / "runs").glob("*/summary.json"))
    alone = summary["baselines"]["single_mean"]
    assert summary["final"]["metrics"]["accuracy"] > alone["accuracy"] + 0.1, "together is not better than alone"
    assert list((project / "runs").glob("*/report.html"))


@pytest.mark.parametrize(
    ("prog", "settings", "file"),
    [
        ("fl-aggregator", AggregatorSettings, "run.yaml"),
        ("fl-simulate", SimulationSettings, "run.yaml"),
        ("fl-worker", WorkerSettings, "worker.yaml"),
    ],
)
def test_every_setting_is_there_and_each_comment_can_be_put_to_use(
    project: Path, prog: str, settings: type, file: str
) -> None:
    text = (project / file).read_text(encoding="utf-8")
    assert {setting.name for setting in described(settings)} <= set(settings_in(text))
    (project / file).write_text(uncommented(project / file), encoding="utf-8")
    read = read_settings(settings, ["--config", str(project / file)], prog=prog, description="", examples="")
    given = {"task": "task.py:task", "rounds": 10, "quorum": read.quorum} if file == "run.yaml" else {"task": read.task}
    names = {"workers", "run"} & set(settings.model_fields)
    wanted = settings(**given, **{name: getattr(read, name) for name in names})
    assert read.model_dump() == wanted.model_dump(), "a default in the file is not the default"


def test_a_section_is_read_by_its_own_command_alone(project: Path) -> None:
    flags = ["--config", str(project / "run.yaml")]
    own = read_settings(AggregatorSettings, flags, prog="fl-aggregator", description="", examples="")
    assert (own.run, str(own.quorum), own.rounds) == ("my_project", "2", 10)
    (project / "run.yaml").write_text("aggregator:\n  colour: red\n")
    with pytest.raises(SettingsError, match="unknown setting colour"):
        read_settings(AggregatorSettings, flags, prog="fl-aggregator", description="", examples="")
    read_settings(SimulationSettings, flags, prog="fl-simulate", description="", examples="")


@pytest.mark.parametrize("file", ["task.py", "run.yaml", "worker.yaml", "README.md", "docker-compose.yml"])
def test_a_file_reads_well(project: Path, file: str) -> None:
    lines = (project / file).read_text(encoding="utf-8").split("\n")
    assert max(map(len, lines)) <= 120
    assert "\n\n\n\n" not in "\n".join(lines)
    assert not [line for line in lines if line != line.rstrip()]


def test_the_compose_file_names_only_what_is_there(project: Path) -> None:
    services = yaml.safe_load((project / "docker-compose.yml").read_text(encoding="utf-8"))["services"]
    assert set(services) == {"users", "broker", "aggregator", "dashboard", "worker"}
    commands = {services[name]["command"][0] for name in ("aggregator", "dashboard", "worker")}
    assert commands <= {*COMMANDS}
    for name in ("aggregator", "worker"):
        assert services[name]["command"][2] in FILES
        assert ".:/project:ro" in services[name]["volumes"]
    env = variables(project / ".env")
    assert (Path(env["FEDMQ_SOURCE"]) / "Dockerfile").is_file()
    wanted = set(re.findall(r"\$\{(\w+)", (project / "docker-compose.yml").read_text(encoding="utf-8")))
    assert wanted == set(env)


def test_each_project_has_passwords_of_its_own_that_nobody_else_can_read(project: Path, tmp_path: Path) -> None:
    write_project(tmp_path / "other")
    names = [name for name in variables(project / ".env") if name.endswith("_PASSWORD")]
    made = [variables(folder / ".env")[name] for folder in (project, tmp_path / "other") for name in names]
    assert len(names) == 4
    assert len(set(made)) == 8
    assert all(re.fullmatch(r"[A-Za-z0-9_-]{40,}", password) for password in made)
    assert (project / ".env").stat().st_mode & 0o077 == 0
    assert {variables(project / ".env.example")[name] for name in names} == {"change-me"}


def test_each_service_has_a_user_of_its_own_at_the_broker(project: Path) -> None:
    for path in (project / "docker-compose.yml", ROOT / "docker-compose.yml"):
        services = yaml.safe_load(path.read_text(encoding="utf-8"))["services"]
        users = {
            name: re.match(r"amqp://(\w+):", services[name]["environment"]["FEDMQ_BROKER"])[1]  # type: ignore[index]
            for name in ("aggregator", "dashboard", "worker")
        }
        assert users == {"aggregator": "aggregator", "dashboard": "onlooker", "worker": "site"}
        assert services["worker"]["environment"]["FEDMQ_NAME"] == "site-*"
        made = re.findall(r'^user "\$\$\w+" (\w+) (\w+)(.*?) *(?:#|$)', services["users"]["command"][2], re.MULTILINE)
        keepers = [("keeper", "keeper", "")] if "keeper" in services else []
        assert made == [
            ("aggregator", "aggregator", ""),
            ("operator", "operator", ""),
            ("onlooker", "onlooker", ""),
            ("worker", "site", " --elastic"),
            *keepers,
        ]
        assert services["broker"]["depends_on"]["users"]["condition"] == "service_completed_successfully"


def test_what_is_true_of_this_machine_alone_is_in_no_file_for_git(project: Path) -> None:
    for file in set(FILES) - {".env"}:
        assert str(ROOT) not in (project / file).read_text(encoding="utf-8"), file


def test_without_fedmqs_sources_the_user_is_told_to_name_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(scaffold.cli, "__file__", str(tmp_path / "lib" / "scaffold" / "cli.py"))
    assert scaffold.cli.main([str(tmp_path / "mine")]) == ExitCode.OK
    assert "FEDMQ_SOURCE" in capsys.readouterr().err
    assert "found none on this machine" in (tmp_path / "mine" / "README.md").read_text(encoding="utf-8")


def test_nothing_is_overwritten_and_a_name_must_be_one(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (project / "task.py").read_bytes()
    assert scaffold.cli.main([str(project)]) == ExitCode.USAGE
    assert "not empty" in capsys.readouterr().err
    assert (project / "task.py").read_bytes() == before
    for name in ("two words", "_hidden", "grüße", "x" * 65):
        assert scaffold.cli.main([str(project / name)]) == ExitCode.USAGE
        assert capsys.readouterr().err.count("\n") == 1
        assert not (project / name).exists()


def test_every_setting_that_has_a_place_in_a_group_is_there() -> None:
    assert set(GROUP_OF) <= {setting.name for settings in COMMANDS.values() for setting in described(settings)}


def test_the_settings_page_is_not_stale() -> None:
    assert (ROOT / "docs" / "settings.md").read_text(encoding="utf-8") == page(), "make settings-page"


@pytest.mark.parametrize("file", TEMPLATES)
def test_the_settings_of_a_new_project_are_not_stale(file: str) -> None:
    template = ROOT / "scaffold" / "project" / file
    assert template.read_text(encoding="utf-8") == TEMPLATES[file](), "make settings-page"


@pytest.mark.parametrize("command", COMMANDS)
def test_every_setting_of_a_command_has_a_description_and_is_a_flag_of_it(command: str) -> None:
    module = COMMANDS[command].__module__
    settings = described(COMMANDS[command])
    assert all(setting.description for setting in settings), module
    assert len({setting.flag for setting in settings}) == len(settings) >= 3


def test_git_takes_no_secret_along(project: Path) -> None:
    subprocess.run(["git", "init", "-q", str(project)], check=True)
    listed = subprocess.run(
        ["git", "-C", str(project), "status", "--porcelain", "-uall"], check=True, capture_output=True, text=True
    ).stdout
    assert "?? task.py" in listed
    assert "?? .env.example" in listed
    assert "?? .env\n" not in listed
