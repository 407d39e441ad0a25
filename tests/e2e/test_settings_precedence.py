"""A setting comes from its flag, or else the environment, or else the file, or else its default."""

from pathlib import Path

import pytest

from aggregator.settings import AggregatorSettings
from console.settings import read_settings
from worker.settings import WorkerSettings


def read(*flags: str) -> AggregatorSettings:
    return read_settings(AggregatorSettings, list(flags), prog="fl-aggregator", description="", examples="")


@pytest.fixture
def config(tmp_path: Path) -> tuple[str, str]:
    """A file with settings, as flags."""
    path = tmp_path / "run.yaml"
    path.write_text("rounds: 3\nquorum: 80%\ndeadline-s: 7.5\nlr: 0.25\nstate: here\n")
    return ("--config", str(path))


def test_each_source_stands_behind_the_one_before(config: tuple[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    default = read().rounds
    from_file = read(*config).rounds
    monkeypatch.setenv("FEDMQ_ROUNDS", "2")
    from_environment = read(*config).rounds
    from_flag = read(*config, "--rounds", "1").rounds
    assert [from_flag, from_environment, from_file, default] == [1, 2, 3, 20]


def test_sources_are_merged_setting_by_setting(config: tuple[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEDMQ_QUORUM", "2")
    settings = read(*config, "--lr", "0.5")
    assert (settings.rounds, str(settings.quorum), settings.lr, settings.momentum) == (3, "2", 0.5, 0.9)
    assert settings.state == Path("here")


def test_the_config_flag_is_found_in_both_spellings(config: tuple[str, str]) -> None:
    assert read("=".join(config)).rounds == read(*config).rounds == 3


def test_names_in_a_file_may_be_spelled_as_flags_are(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text("deadline-s: 7.5\nmin-updates: 2\n")
    settings = read("--config", str(path))
    assert (settings.deadline_s, settings.min_updates) == (7.5, 2)


@pytest.mark.parametrize("source", ["flag", "environment", "file", "null in the file"])
def test_no_deadline_can_be_said_everywhere(source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "run.yaml"
    path.write_text({"file": "deadline_s: none\n", "null in the file": "deadline_s: null\n"}.get(source, ""))
    if source == "environment":
        monkeypatch.setenv("FEDMQ_DEADLINE_S", "none")
    flags = ("--deadline-s", "none") if source == "flag" else ()
    assert read("--config", str(path), *flags).deadline_s is None


def test_a_quorum_that_yaml_takes_for_a_number_is_one(tmp_path: Path) -> None:
    """`quorum: 3` and `quorum: 0.8` are what a person writes."""
    path = tmp_path / "run.yaml"
    for text, wanted in (("3", "3"), ("0.8", "0.8"), ("80%", "80%")):
        path.write_text(f"quorum: {text}\n")
        assert str(read("--config", str(path)).quorum) == wanted


def test_an_empty_variable_counts_as_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEDMQ_ROUNDS", "")
    assert read().rounds == 20


def test_a_boolean_flag_can_be_turned_off_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEDMQ_CHECK", "true")
    for flags, wanted in (([], True), (["--no-check"], False)):
        settings = read_settings(WorkerSettings, flags, prog="fl-worker", description="", examples="")
        assert settings.check is wanted


def test_of_a_flag_given_twice_the_last_one_counts() -> None:
    assert read("--rounds", "1", "--rounds", "2").rounds == 2
