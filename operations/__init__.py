"""The operators' commands: `fl-status` (what is there now) and `fl-dead` (what was set aside)."""

from operations.look import Condition, take_look
from operations.settings import DeadSettings, StatusSettings

__all__ = ["Condition", "DeadSettings", "StatusSettings", "take_look"]
