"""What happens at a keeper, for whoever watches it."""

from collections.abc import Callable
from dataclasses import dataclass

from console import Transferring


@dataclass(frozen=True, slots=True)
class StandingBy:
    """Another process is this keeper, and this one waits until it is gone."""


@dataclass(frozen=True, slots=True)
class Serving:
    """It answers now. ``num_releases`` were given before, of all runs."""

    num_releases: int
    min_sites: int


@dataclass(frozen=True, slots=True)
class Expanded:
    """Masks were expanded ahead of a request."""

    run_id: str
    round: int
    num_masks: int
    """In the sum by now."""
    seconds: float


@dataclass(frozen=True, slots=True)
class Released:
    """A sum of masks was given."""

    run_id: str
    round: int
    num_updates: int
    num_sites: int
    noise: float | None
    """The multiplier of its noise; None: it has none."""
    is_repeat: bool
    """Whether it is the answer that was given before."""
    num_bytes: int
    seconds: float
    """From the request to the confirmed answer."""


@dataclass(frozen=True, slots=True)
class Withholding:
    """A sum was asked for, and not given; or seeds were offered that cannot be used."""

    run_id: str
    round: int
    asker: str
    reason: str
    is_final: bool


@dataclass(frozen=True, slots=True)
class Charged:
    """What all releases with noise come to so far."""

    epsilon: float
    delta: float
    releases_left: int


Event = StandingBy | Serving | Expanded | Released | Withholding | Charged | Transferring
Watcher = Callable[[Event], None]


def unwatched(event: Event) -> None:
    """Watches nothing."""
