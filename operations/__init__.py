"""The operators' commands: `fl-status` (what is there now) and `fl-dead` (what was set aside)."""

from operations.settings import DeadSettings, StatusSettings
from operations.snapshot import Condition, take_snapshot

__all__ = ["Condition", "DeadSettings", "StatusSettings", "take_snapshot"]
