"""What the documents name is there: tests, metrics, commands, files."""

import re
from pathlib import Path

import pytest

from aggregator.pairs import PAIRS
from aggregator.watchers.metrics import AggregatorMetrics
from aggregator.watchers.partial_metrics import PartialMetrics
from broker.wire.messages import Presence
from console.flags import described
from keeper.watchers.metrics import KeeperMetrics
from scaffold.commands import COMMANDS
from worker.watchers.metrics import WorkerMetrics

ROOT = Path(__file__).parents[2]
PAGES = sorted([*(ROOT / "docs").glob("*.md"), ROOT / "README.md"])
PRESENCE = Presence(worker="a", instance="0123456789abcdef", state="idle")


def test_every_guarantee_names_a_test_that_is_there() -> None:
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", (ROOT / "docs" / "guarantees.md").read_text(encoding="utf-8"))
    assert len(named) >= 10
    for path, function in named:
        assert f"def {function}(" in (ROOT / path).read_text(encoding="utf-8"), path


def test_the_table_of_what_does_not_go_together_has_all_pairs_and_no_other() -> None:
    page = (ROOT / "docs" / "algorithms.md").read_text(encoding="utf-8")
    table = page.partition("## What does not go together")[2].partition("\n## ")[0]
    rows = [line.split("|")[1:3] for line in table.splitlines() if line.startswith("| `--")]
    written = {(_settings_in(one)[0], other) for one, others in rows for other in _settings_in(others)}
    pairs = {(pair.names[0], pair.names[1].removesuffix("_share")) for pair in PAIRS}
    assert pairs <= written
    assert {other for _, other in written - pairs} <= {"max_weight", "on_short", "deadline_s"}  # told with another


def _settings_in(cell: str) -> list[str]:
    return [flag.replace("-", "_") for flag in re.findall(r"`--([a-z-]+)", cell)]


def test_the_table_of_metrics_has_all_and_no_other(tmp_path: Path) -> None:
    all_metrics = (AggregatorMetrics(tmp_path), PartialMetrics(), WorkerMetrics(lambda: PRESENCE), KeeperMetrics())
    there = {
        family.name + ("_total" if family.type == "counter" else "")
        for metrics in all_metrics
        for family in metrics.registry.collect()
        if family.name.startswith("fedmq_")
    }
    page = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
    assert set(re.findall(r"`(fedmq_\w+?)(?:\{\w+\})?`", page)) == there


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_flags_that_a_page_shows_are_flags_of_that_command(page: Path) -> None:
    flags = {command: {setting.flag for setting in described(settings)} for command, settings in COMMANDS.items()}
    for line in page.read_text(encoding="utf-8").splitlines():
        for command, rest in re.findall(
            r"(fl-(?:aggregator|worker|keeper|simulate|dashboard|status|keys|privacy))((?: [^`|#;&(]*)?)", line
        ):
            own, _, _ = rest.partition(" -- ")  # what follows are a script's
            for flag in re.findall(r"(?<!\S)--[a-z][a-z-]+", own):
                positive = flag.replace("--no-", "--")
                assert {flag, positive} & (flags[command] | {"--config", "--help"}), f"{command} has no {flag}: {line}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_that_a_page_links_to_are_there(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#:\s]+)(?:#[\w-]*)?\)", text):
        assert (page.parent / target).exists(), f"{page.name}: {target}"
    for example in re.findall(r"examples/\w+\.py", text):
        assert (ROOT / example).is_file(), example


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_what_a_page_includes_is_there_and_no_formatter_touches_it(page: Path) -> None:
    """Formatters of Python in Markdown, such as ruff's, make `--8 < --"file"` of an include: no more an include."""
    text = page.read_text(encoding="utf-8")
    likely = re.findall(r"^.*-- ?8 ?<.*$", text, flags=re.MULTILINE)
    included = re.findall(r'^--8<-- "([^"]+)"$', text, flags=re.MULTILINE)
    assert len(likely) == len(included), likely
    assert all((ROOT / file).is_file() for file in included), included
    assert "--8<--" not in "".join(re.findall(r"^```(?:python|py)\n.*?^```$", text, flags=re.MULTILINE | re.DOTALL))
