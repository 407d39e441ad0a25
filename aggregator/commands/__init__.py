"""What people ask of a running aggregator (``fl-run``): each command is done once, and stays done over a restart."""

from aggregator.commands.standing import Standing
from aggregator.commands.steering import Steering

__all__ = ["Standing", "Steering"]
