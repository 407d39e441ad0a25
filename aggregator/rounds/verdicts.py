"""What becomes of a message on the results queue: fold, late, duplicate, or refuse. Pure: it only decides.

One message brings one update, or, as a partial sum, the sum of several that were trained from the same model. It
counts as a whole or not at all:

    all of its updates are in already       Duplicate   the broker may deliver twice, a restarted worker repeats itself
    its round has been closed for too long  Late        for those that are not in
    some of its updates are in already      Refuse      a sum cannot be taken apart
    its worker was not chosen               Unselected  to take part in its round; a sum with such an update: Refuse
    otherwise                               Fold        each with its weight
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from aggregator.weighing import Claim, Weigher, discount
from console import UnfitMessage


@dataclass(frozen=True, slots=True)
class Fold:
    """It counts: with these weights, discounted for staleness, and these parts of the divisor, one for each update."""

    weights: tuple[float, ...]
    base_weights: tuple[float, ...]
    staleness: int = 0


@dataclass(frozen=True, slots=True)
class Late:
    """It arrived too late to count; ``claims`` are those of its updates that are not in."""

    claims: tuple[Claim, ...]
    reason: str


@dataclass(frozen=True, slots=True)
class Duplicate:
    """It is in already. ``claims`` are those repeated by another process of the same name."""

    claims: tuple[Claim, ...]
    reason: str


@dataclass(frozen=True, slots=True)
class Unselected:
    """Its worker was not to take part in its round."""

    claims: tuple[Claim, ...]
    reason: str


@dataclass(frozen=True, slots=True)
class Refuse:
    """It cannot count and is set aside."""

    reason: str


Decision = Fold | Late | Duplicate | Unselected | Refuse


def decide_on(
    claims: Sequence[Claim],
    *,
    base_round: int,
    open_round: int,
    known: Mapping[str, str],
    max_staleness: int,
    weigher: Weigher,
    is_chosen: Callable[[str], bool] = lambda worker: True,
) -> Decision:
    """What becomes of a message with these updates, all trained from the model of ``base_round``.

    ``known`` has the instance of each worker whose update for that round is in, committed or not.
    ``is_chosen``: whether a worker takes part in that round.
    """
    new = tuple(claim for claim in claims if claim.worker not in known)
    if not new:
        return _duplicate(claims, base_round, known)
    staleness = open_round - base_round
    if staleness > max_staleness:
        return Late(new, f"round {base_round} is closed; the open one is {open_round}")
    if len(new) < len(claims):
        names = ", ".join(claim.worker for claim in claims if claim.worker in known)
        return Refuse(f"of its {len(claims)} updates those of {names} are in already")
    foreign = [claim.worker for claim in claims if not is_chosen(claim.worker)]
    if foreign and len(claims) == 1:
        return Unselected(tuple(claims), not_chosen(base_round))
    if foreign:
        return Refuse(f"of its {len(claims)} updates those of {', '.join(foreign)} are of workers that were not chosen")
    try:
        weights = [weigher.weigh(claim) for claim in claims]
    except UnfitMessage as error:
        return Refuse(str(error))
    discounted = tuple(weight.weight * discount(staleness) for weight in weights)
    return Fold(discounted, tuple(weight.base for weight in weights), staleness)


def not_chosen(base_round: int) -> str:
    """Why an update or answer for this round does not count whose worker takes no part in it."""
    return f"its worker was not chosen for round {base_round}"


def _duplicate(claims: Sequence[Claim], base_round: int, known: Mapping[str, str]) -> Duplicate:
    """No rows for a message that the broker delivers twice, nor for a sum, whose updates have rows already."""
    is_repeated = len(claims) == 1 and claims[0].instance != known[claims[0].worker]
    reason = f"an update of {claims[0].worker} for round {base_round} is in already"
    return Duplicate(tuple(claims) if is_repeated else (), reason)
