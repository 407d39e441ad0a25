"""The operators' commands: `fl-status` (what is there now), `fl-dead` (what was set aside), `fl-keys` (who is who)."""

from operations.settings import DeadSettings, KeysSettings, StatusSettings
from operations.snapshot import Condition, take_snapshot

__all__ = ["Condition", "DeadSettings", "KeysSettings", "StatusSettings", "take_snapshot"]
