"""The page that shows a run. It reads state directories and writes nothing. `fl-dashboard` is in cli.py."""

from dashboard.settings import DashboardSettings

__all__ = ["DashboardSettings"]
