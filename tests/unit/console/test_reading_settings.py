"""Settings: where they come from, what is told when they are wrong, and what is never told."""

import math
import re
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import SecretStr

from aggregator.rounds.policy import Quorum
from aggregator.settings import AggregatorSettings
from broker.addresses import redacted
from broker.settings import BrokerSettings
from console import CommandSettings
from console.errors import ExitCode, SettingsError
from console.flags import described
from console.settings import environment_of, read_settings
from operations.settings import StatusSettings
from scaffold.commands import COMMANDS
from worker.settings import WorkerSettings

SECRET = "Hunter2hunter2"


def read(*argv: str, kind: type[Any] = AggregatorSettings) -> Any:
    return read_settings(kind, argv, prog="fl-test", description="Tests.", examples="  fl-test")


def config(tmp_path: Path, text: str) -> str:
    path = tmp_path / "run.yaml"
    path.write_text(text, encoding="utf-8")
    return str(path)


def problem(*argv: str) -> str:
    with pytest.raises(SettingsError) as caught:
        read(*argv)
    assert caught.value.exit_code == ExitCode.USAGE
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_defaults_hold_when_nothing_is_said() -> None:
    given = read()
    assert (given.queue, given.rounds, str(given.quorum), given.deadline_s) == ("updates", 20, "100%", 600.0)


def test_a_flag_goes_before_the_environment_before_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = config(tmp_path, "rounds: 1\nquorum: '1'\nqueue: from-file\n")
    monkeypatch.setenv("FEDMQ_ROUNDS", "2")
    monkeypatch.setenv("FEDMQ_QUORUM", "2")
    given = read("--config", path, "--rounds", "3")
    assert (given.rounds, str(given.quorum), given.queue) == (3, "2", "from-file")


@pytest.mark.parametrize("quorum", ["3", "0.8", "80%"])
def test_a_quorum_is_read_from_flag_environment_and_file(
    quorum: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = Quorum.parse(quorum)
    assert read("--quorum", quorum).quorum == wanted
    assert read("--config", config(tmp_path, f"quorum: {quorum}\n")).quorum == wanted
    monkeypatch.setenv("FEDMQ_QUORUM", quorum)
    assert read().quorum == wanted


def test_a_compression_of_none_is_none_from_flag_environment_and_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert str(read("--compression", "none").compression) == "none"
    assert str(read("--config", config(tmp_path, "compression: none\n")).compression) == "none"
    monkeypatch.setenv("FEDMQ_COMPRESSION", "none")
    assert str(read().compression) == "none"


@pytest.mark.parametrize("command", COMMANDS)
def test_each_setting_of_a_command_is_one_flag(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A value with fields of its own is no group of flags, and no JSON."""
    with pytest.raises(SystemExit):
        read("--help", kind=COMMANDS[command])
    shown = capsys.readouterr().out
    flags = set(re.findall(r"--([a-z0-9-]+(?:\.[a-z0-9.-]+)?)", shown.partition("examples:")[0]))
    settings = {setting.flag.removeprefix("--") for setting in described(COMMANDS[command])}
    assert settings <= flags
    assert not {flag for flag in flags if "." in flag}
    assert not re.search(r"--[a-z-]+ (JSON|\{.*JSON)", shown)


def shown_help(kind: type[Any], capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as ended:
        read("--help", kind=kind)
    assert ended.value.code == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_each_setting_with_its_variable_and_its_default_as_it_is_written(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    shown = " ".join(shown_help(COMMANDS[command], capsys).split())
    for setting in described(COMMANDS[command]):
        default = f"default {setting.default}; " if setting.default else ""
        assert f"({default}{setting.variable})" in shown
    assert not re.search(r"SecretStr|\*\*\*|\{|Path,", shown.partition("examples:")[0])


def test_help_begins_with_what_people_set_first_and_has_the_groups_of_the_settings_page(
    capsys: pytest.CaptureFixture[str],
) -> None:
    shown = shown_help(WorkerSettings, capsys)
    flags = re.findall(r"^  (--[a-z-]+)", shown, flags=re.MULTILINE)
    assert flags[:4] == ["--task", "--name", "--run", "--task-arg"]
    groups = re.findall(r"^(\S.*):$", shown, flags=re.MULTILINE)
    assert groups[:1] + groups[-2:] == ["Most of all", "Help and file", "examples"]
    assert set(groups[:-2]) == {setting.group for setting in described(WorkerSettings)}


def test_the_broker_is_read_from_the_environment_and_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEDMQ_BROKER", f"amqp://u:{SECRET}@h:5672/")
    given = read()
    assert given.broker.get_secret_value() == f"amqp://u:{SECRET}@h:5672/"
    assert SECRET not in repr(given) + str(given) + str(given.model_dump(mode="json"))


class Various(CommandSettings):
    number: float = 1.0
    flag: bool = True
    path: Path | None = Path("default")
    secret: SecretStr = SecretStr("")
    names: tuple[str, ...] = ()


@pytest.mark.parametrize(
    "given",
    [
        {"number": 0.1, "flag": False, "path": Path("a b/c"), "secret": SecretStr(SECRET), "names": ("a", "b,c")},
        {"number": math.inf, "path": None},
    ],
    ids=["values of all kinds", "no value and no limit"],
)
def test_settings_told_by_the_environment_are_read_back_as_they_were(
    given: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, text in environment_of(Various(**given), given).items():
        monkeypatch.setenv(name, text)
    assert read(kind=Various).model_dump() == Various(**given).model_dump()


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (("--broker", f"amqps://u:{SECRET}@h/", "--token", SECRET * 2), ["--broker", "--token"]),
        (("--broker", "amqps://h/", "--log-format", "json"), []),
        (("--broker", "amqp://guest:guest@localhost/"), []),
        (("--token", "none"), []),
    ],
)
def test_a_password_in_a_flag_is_told_to_be_seen_by_others(
    flags: tuple[str, ...], named: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    read(*flags)
    told = capsys.readouterr().err.splitlines()
    assert [re.search(r"--[a-z]+", line)[0] for line in told] == named  # type: ignore[index]
    assert all("(`ps`); set FEDMQ_" in line for line in told)
    assert SECRET not in "".join(told)


def test_a_password_in_the_environment_or_a_file_is_not_mentioned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FEDMQ_BROKER", f"amqps://u:{SECRET}@h/")
    read("--config", config(tmp_path, f"token: {SECRET * 2}\n"))
    assert capsys.readouterr().err == ""


def test_an_empty_variable_counts_as_unset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEDMQ_ROUNDS", "")
    assert read().rounds == 20


def test_a_flag_named_otherwise_than_its_field_has_the_prefixed_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JSON", "true")
    assert not read(kind=StatusSettings).is_json
    monkeypatch.setenv("FEDMQ_JSON", "true")
    assert read(kind=StatusSettings).is_json


def test_names_in_a_file_may_have_hyphens(tmp_path: Path) -> None:
    assert read("--config", config(tmp_path, "deadline-s: 5\nmin_updates: 2\n")).deadline_s == 5.0


def test_an_empty_file_says_nothing(tmp_path: Path) -> None:
    assert read("--config", config(tmp_path, "# nothing\n")).rounds == 20


def test_a_deadline_of_none_is_no_deadline_from_the_flag_and_the_file(tmp_path: Path) -> None:
    assert read("--deadline-s", "none").deadline_s is None
    assert read("--config", config(tmp_path, "deadline_s: null\n")).deadline_s is None


def test_a_deadline_of_none_is_no_deadline_from_the_environment_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEDMQ_DEADLINE_S", "none")
    assert read().deadline_s is None


def test_all_problems_are_told_together() -> None:
    text = problem("--rounds", "0", "--quorum", "many", "--deadline-s", "-1", "--run", "a b")
    for flag in ("--rounds", "--quorum", "--deadline-s", "--run"):
        assert flag in text
    assert "'many'" in text
    assert text.endswith("See fl-test --help.")


def test_early_stop_settings_need_a_metric() -> None:
    assert "--stop-metric" in problem("--patience", "3")
    assert "--stop-metric" in problem("--stop-at", "0.9")
    assert "--stop-direction needs --stop-metric" in problem("--stop-direction", "min")
    assert "--stop-direction" in problem("--stop-direction", "down", "--stop-metric", "accuracy")
    assert read("--stop-direction", "min", "--stop-metric", "accuracy").stop_direction == "min"
    assert read("--patience", "3", "--stop-metric", "accuracy").patience == 3


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("rouns: 3\n", "unknown setting rouns; did you mean rounds?"),
        ("zzz: 3\n", "unknown setting zzz (fl-"),
        ("- 1\n", "expected `name: value` lines"),
        ("1: 2\n", "expected `name: value` lines"),
        ("rounds: [\n", "not valid YAML"),
        ("rounds: three\n", "--rounds"),
    ],
)
def test_a_file_that_is_wrong_is_refused(tmp_path: Path, content: str, told: str) -> None:
    assert told in problem("--config", config(tmp_path, content))


@pytest.mark.parametrize("command", ["fl-worker", "fl-status", "fl-dead list", "fl-dashboard"])
def test_the_file_of_a_member_serves_all_commands_on_its_machine(tmp_path: Path, command: str) -> None:
    (tmp_path / "site.key").touch()
    (tmp_path / "roster.yaml").touch()
    path = config(
        tmp_path, f"queue: heart\nroster: {tmp_path}/roster.yaml\nroster-key: 'x'\nkey: {tmp_path}/site.key\n"
    )
    name, *words = command.split()
    assert read("--config", path, *words, kind=COMMANDS[name]).queue == "heart"


def test_a_file_that_is_not_there_or_not_text_is_refused(tmp_path: Path) -> None:
    assert "No such file" in problem("--config", str(tmp_path / "none.yaml"))
    path = tmp_path / "binary.yaml"
    path.write_bytes(b"\xff\xfe\x00")
    assert "not valid YAML" in problem("--config", str(path))


def test_an_unknown_flag_ends_the_command_with_the_usage_code(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        read("--rouns", "3")
    assert caught.value.code == ExitCode.USAGE
    assert "--rouns" in capsys.readouterr().err


def test_help_ends_with_examples(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        read("--help")
    assert capsys.readouterr().out.rstrip().endswith("examples:\n  fl-test")


WRONG_URLS = [
    f"http://u:{SECRET}@h/",
    f"amqp//u:{SECRET}@h/",
    f"u:{SECRET}@h",
    f"amqp://u:{SECRET}@h:port/",
    f"amqp://u:{SECRET}@h:99999/",
    f"amqp://u:{SECRET}@h:0/",
    f"amqp://u:{SECRET}@/",
    f"amqp://u:{SECRET}#@h/",
    f"amqp://[u:{SECRET}@h/",
    f"amqp://{SECRET}@h/",
]


@pytest.mark.parametrize("url", WRONG_URLS)
def test_a_wrong_url_is_told_without_its_password(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [problem("--broker", url), problem("--config", config(tmp_path, f"broker: '{url}'\n"))]
    monkeypatch.setenv("FEDMQ_BROKER", url)
    for text in [*texts, problem()]:
        assert "--broker: not a broker's URL" in text
        assert SECRET not in text


@pytest.mark.parametrize("sign", [*"#/?[]%"])
@pytest.mark.parametrize("before", ["", "12", "p@"], ids=["first", "after digits", "after an @"])
def test_a_password_with_a_sign_of_urls_is_told_how_to_write_it(sign: str, before: str) -> None:
    """``12#…`` would otherwise be a port, and the user's name the host."""
    text = problem("--broker", f"amqp://user:{before}{sign}{SECRET}@broker.example:5672/")
    assert f"it has a {sign} before the last @; in a user name or password write {quote(sign, safe='')} for it" in text
    assert SECRET not in text
    written = quote(f"{before}{sign}{SECRET}", safe="")
    assert redacted(read("--broker", f"amqp://user:{written}@h:5672/").broker) == "amqp://user@h:5672/"


@pytest.mark.parametrize("password", ["p@ss", "p:ss", "p%40ss", "p&=+!ss", "pä ss"])
def test_a_password_that_a_url_may_hold_as_it_is_is_taken(password: str) -> None:
    assert redacted(read("--broker", f"amqp://user:{password}@h:5672/v%2Fhost?heartbeat=5").broker).startswith(
        "amqp://user@h:5672/"
    )


@pytest.mark.parametrize(
    "line", [f'broker: "amqp://u:{SECRET}@h/', f"broker: amqp://u:{SECRET}@h/: x", f"broker: [{SECRET}"]
)
def test_a_file_that_is_not_yaml_is_told_without_its_content(tmp_path: Path, line: str) -> None:
    assert SECRET not in problem("--config", config(tmp_path, f"rounds: 3\n{line}\n"))


def test_a_list_of_brokers_is_refused_without_its_content(tmp_path: Path) -> None:
    assert SECRET not in problem("--config", config(tmp_path, f"broker: [amqp://{SECRET}@h/]\n"))


@settings(max_examples=200, deadline=None, derandomize=True, database=None)
@given(st.text(st.sampled_from("!$%&/@:?#[]qxzQXZ0123456789"), min_size=8), st.sampled_from(["amqp", "amqps"]))
def test_a_redacted_url_never_holds_the_password(password: str, scheme: str) -> None:
    url = f"{scheme}://user:{quote(password, safe='')}@broker.example:5671/vhost"
    assert redacted(SecretStr(url)) == f"{scheme}://user@broker.example:5671/vhost"


def test_a_redacted_url_without_a_user_or_port_stays_as_it_is() -> None:
    assert redacted("amqp://broker/") == "amqp://broker/"


def test_a_redacted_ipv6_address_keeps_its_brackets() -> None:
    assert redacted(f"amqp://u:{SECRET}@[::1]:5672/") == "amqp://u@[::1]:5672/"


def test_settings_cannot_be_changed() -> None:
    given = BrokerSettings()
    with pytest.raises(ValueError):
        given.queue = "other"  # type: ignore[misc]
