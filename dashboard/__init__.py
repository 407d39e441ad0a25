"""The page on which a run is looked at. It reads state directories, and writes nothing. `fl-dashboard` is in cli.py."""

from dashboard.settings import DashboardSettings

__all__ = ["DashboardSettings"]
