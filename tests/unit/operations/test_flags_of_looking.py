"""Commands that look have no flags that do nothing there, and read past them in a file that others share."""

from pathlib import Path

import pytest
from pydantic import BaseModel

from aggregator.settings import AggregatorSettings
from console.settings import CommandSettings, read_settings
from dashboard.settings import DashboardSettings
from keeper.settings import KeeperSettings
from operations.runs.settings import ModelSettings, RunCommandSettings
from operations.settings import DeadSettings, KeysSettings, StatusSettings
from privacy.planning.settings import PrivacySettings
from simulation.settings import SimulationSettings
from worker.settings import WorkerSettings

OF_SENDERS = {"inline_cap", "live"}
LOOKING = (
    *(StatusSettings, DeadSettings, RunCommandSettings, DashboardSettings),
    *(ModelSettings, KeysSettings, PrivacySettings),
)


@pytest.mark.parametrize("settings", LOOKING)
def test_a_command_that_sends_no_model_has_neither_a_cap_nor_a_live_view(settings: type[BaseModel]) -> None:
    assert not OF_SENDERS & settings.model_fields.keys()


@pytest.mark.parametrize("settings", [AggregatorSettings, WorkerSettings, KeeperSettings, SimulationSettings])
def test_a_command_that_sends_has_both(settings: type[BaseModel]) -> None:
    assert settings.model_fields.keys() >= OF_SENDERS


@pytest.mark.parametrize("settings", [StatusSettings, DashboardSettings])
def test_in_a_file_that_others_share_they_are_read_past(settings: type[CommandSettings], tmp_path: Path) -> None:
    file = tmp_path / "fedmq.yaml"
    file.write_text("queue: clinic\ninline_cap: 0\nlive: false\n", encoding="utf-8")
    read = read_settings(settings, ["--config", str(file)], prog="fl-test", description="", examples="")
    assert read.queue == "clinic"  # type: ignore[attr-defined]
