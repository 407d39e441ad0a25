"""All commands that have settings, with the models that check them."""

from collections.abc import Mapping

from pydantic_settings import BaseSettings

from aggregator import AggregatorSettings
from dashboard import DashboardSettings
from keeper import KeeperSettings
from operations import DeadSettings, KeysSettings, StatusSettings
from operations.runs import ModelSettings, RunCommandSettings
from privacy.planning import PrivacySettings
from simulation import SimulationSettings
from simulation.statistics import StatisticsSettings
from worker import WorkerSettings

COMMANDS: Mapping[str, type[BaseSettings]] = {
    "fl-aggregator": AggregatorSettings,
    "fl-worker": WorkerSettings,
    "fl-keeper": KeeperSettings,
    "fl-simulate": SimulationSettings,
    "fl-statistics": StatisticsSettings,
    "fl-dashboard": DashboardSettings,
    "fl-status": StatusSettings,
    "fl-run": RunCommandSettings,
    "fl-model": ModelSettings,
    "fl-dead": DeadSettings,
    "fl-keys": KeysSettings,
    "fl-privacy": PrivacySettings,
}
