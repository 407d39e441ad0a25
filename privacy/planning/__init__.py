"""``fl-privacy``: what a run will give away, or how much noise it takes, before it is begun."""

from privacy.planning.settings import PrivacySettings

__all__ = ["PrivacySettings"]
