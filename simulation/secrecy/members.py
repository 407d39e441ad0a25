"""Who is who in a simulated run whose updates are masked.

All keys follow from one secret in the run's directory and are in memory alone, so that a run that goes on has the same
members. It is a rehearsal: whoever runs the process could look at everything.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from aggregator import AggregatorConfig, AggregatorSettings
from console import SettingsError
from identities import AGGREGATOR, InMemory, Membership, in_memory
from privacy import noise_secret

_SECRET = "federation.secret"


@dataclass(frozen=True)
class Secrecy:
    """The members of one simulated federation: what each of its processes makes their keys of."""

    secret: bytes
    sites: tuple[str, ...]
    keepers: tuple[str, ...]

    @classmethod
    def of(cls, settings: AggregatorSettings, sites: Sequence[str]) -> "Secrecy | None":
        """That of a run with these settings; None if its updates are not masked. A SettingsError for a name in use."""
        if not settings.is_secure:
            return None
        taken = [name for name in sites if name in (AGGREGATOR, *settings.keeper)]
        if taken or AGGREGATOR in settings.keeper:
            raise SettingsError(f"{(taken or [AGGREGATOR])[0]} is the name of a site and of another member; rename one")
        return cls(noise_secret(settings.state / _SECRET), tuple(sites), tuple(settings.keeper))

    @cached_property
    def members(self) -> InMemory:
        return in_memory(self.sites, keepers=self.keepers, secret=self.secret)

    def led(self, config: AggregatorConfig) -> AggregatorConfig:
        """The same for an aggregator that is a member."""
        return replace(config, membership=self.members.membership(AGGREGATOR))


def membership_in(secrecy: Secrecy | None, name: str) -> Membership:
    """How one of the simulated workers takes part."""
    return Membership() if secrecy is None else secrecy.members.membership(name)
