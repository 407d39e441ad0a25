"""The keeper of secure aggregation: gives the sum of a round's masks once, and never that of a single update."""

from keeper.config import KeeperConfig
from keeper.ledger import Ledger
from keeper.rules import Noise
from keeper.service import Keeper
from keeper.settings import KeeperSettings

__all__ = ["Keeper", "KeeperConfig", "KeeperSettings", "Ledger", "Noise"]
