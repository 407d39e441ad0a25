"""What is done to runs: `fl-run` (steers one, lists them) and `fl-model` (takes a model out)."""

from operations.runs.settings import ModelSettings, RunCommandSettings

__all__ = ["ModelSettings", "RunCommandSettings"]
