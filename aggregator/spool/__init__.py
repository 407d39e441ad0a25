"""Updates kept on the disk until their round closes, for rules that need to see all of them at once."""

from aggregator.spool.spool import Spool

__all__ = ["Spool"]
