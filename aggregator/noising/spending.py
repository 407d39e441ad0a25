"""The privacy budget of one run: what the ledger says was charged, and whether another round may open.

A charge is recorded in the transaction that decides a round's set, before its noise exists, and no row is ever
deleted: so one may be unused, and none is missing. The same set is charged once, and another set of its round again.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from aggregator.state import Charge, Ledger
from broker.wire import EXTRA_STEP, HIGH_STEP, DifferentialPrivacy, Masking
from console import StateError
from privacy import (
    LEAST_SIGMA,
    MOST_SIGMA,
    MOST_SIGMA_IN_HALVES,
    UNIT,
    AdaptiveClip,
    Budget,
    GaussianNoise,
    count_draw,
    fingerprint_of,
    model_noise,
    noise_secret,
    release_key,
)

SECRET = "noise.secret"
BUDGET_IS_SPENT = "privacy budget is spent"
_MOST_CLIP = 2.0**19
"""Heads have none of 2^20 or more."""
_ROUNDING = 2.0**-40
"""Relative: whatever is multiplied and divided on the way to sigma, it stays within its limits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Noising:
    """How the models of a run are noised. Its values do not change while it goes on."""

    budget: Budget
    """As the run begins with it."""
    where: Literal["central", "keeper", "local"]
    adaptive: AdaptiveClip | None = None

    def terms(self, budget: Budget) -> DifferentialPrivacy:
        """For a head, with what was spent of the budget by then."""
        return DifferentialPrivacy(
            clip=budget.clip,
            noise=budget.noise,
            epsilon=budget.epsilon,
            delta=budget.delta,
            spent=budget.mu2,
            num_releases=budget.num_releases,
            where=self.where,
            quantile=None if self.adaptive is None else self.adaptive.quantile,
        )

    def taken_over(self, said: DifferentialPrivacy) -> dict[str, float]:
        """The facts of a ledger that goes on from a head: all that it says was spent, and one model more.

        Whoever published the head may have charged for the next model, and drawn its noise, before it was gone.
        """
        before = max(0.0, said.spent - self.budget.spent_mu2)
        return {"dp_spent_before": before + 1 / said.noise**2, "dp_clip": said.clip}


@dataclass(frozen=True, slots=True)
class Spending:
    """What a run has spent, and what it may still spend."""

    noising: Noising
    ledger: Ledger

    @property
    def budget(self) -> Budget:
        """As it is now, with everything that was charged."""
        begun = self.noising.budget
        spent = begun.spent_mu2 + self.ledger.spent_before()
        return replace(begun, spent_mu2=spent, charges=self.ledger.charges(), clip=self.clip)

    @property
    def clip(self) -> float:
        """What the open round's updates are clipped to."""
        return self.ledger.clip() or self.noising.budget.clip

    def reason_to_end(self) -> str | None:
        """Why no further round may open; None if one may."""
        return None if self.budget.may_release_another() else f"{BUDGET_IS_SPENT}: {self.budget}"

    def charge(self, sum_sha256: str) -> Charge:
        """For the model that is made from the sum with this digest."""
        return Charge(sum_sha256=sum_sha256, noise=self.noising.budget.noise, clip=self.clip)

    @property
    def terms(self) -> DifferentialPrivacy:
        """For a head."""
        return self.noising.terms(self.budget)

    def recorded(self) -> Mapping[str, Any]:
        """For people: what has been spent, with everything without which epsilon says nothing."""
        budget = self.budget
        return {
            "epsilon": budget.epsilon_so_far,
            "delta": budget.delta,
            "unit": UNIT,
            "budget": budget.epsilon,
            "noise": budget.noise,
            "clip": budget.clip,
            "releases": budget.num_releases,
            "mu2": budget.mu2,
            "where": self.noising.where,
        }


class CannotBeNoised(Exception):
    """A sum that no noise covers as it should. The text says why."""


@dataclass(frozen=True, slots=True)
class CentralNoise:
    """The noise of the aggregator, for one sum: the same for the same sum, whenever it is asked for."""

    secret: bytes
    run_id: str

    @classmethod
    def opened(cls, folder: Path, ledger: Ledger, run_id: str) -> "CentralNoise":
        """With the secret in the state directory, which is made for the first model.

        A StateError if it is not the one that this run began with: one sum would get a second noise.
        """
        secret = noise_secret(folder / SECRET)
        known, mark = ledger.facts().get("noise_secret"), fingerprint_of(secret)
        if known not in (None, mark):
            raise StateError(
                f"{folder / SECRET} is not the secret that this run's noise follows from: put that one back, or go on"
                " with an empty --state and --take-over, which counts one model more"
            )
        if known is None:
            ledger.record({"noise_secret": mark})
        return cls(secret, run_id)

    def of(self, round_number: int, sum_sha256: str, *, sigma: float) -> GaussianNoise:
        """``sigma`` is in steps of the sum. A ValueError if it is too small or too large to be exact."""
        digest = bytes.fromhex(sum_sha256)
        key = release_key(self.secret, run_id=self.run_id, round_number=round_number, digest=digest)
        return GaussianNoise(key, sigma)

    def of_count(self, round_number: int, sum_sha256: str, *, sigma: float) -> float:
        """One draw beside that, of the same key and so of the same sum, for the number of updates within the clip."""
        draw = count_draw(
            self.secret,
            run_id=self.run_id,
            round_number=round_number,
            digest=bytes.fromhex(sum_sha256),
            sigma=sigma / EXTRA_STEP,
        )
        return draw * EXTRA_STEP


def multiplier(noising: Noising, num_updates: int) -> float:
    """The noise on the updates' sum, in multiples of the clip. A ValueError if an adaptive clip needs more updates."""
    noise = noising.budget.noise
    return noise if noising.adaptive is None else model_noise(noise, num_updates)


def clips_in_reach(noising: Noising, masking: Masking | None, *, fewest: int) -> tuple[float, float]:
    """The smallest and the largest clip whose noise is exact in the integers of the sum, of at least so many updates.

    A ValueError as in ``multiplier``.
    """
    step = HIGH_STEP if masking is None else masking.step
    most_sigma = MOST_SIGMA
    if masking is not None and masking.bits == 32:  # the noise of all keepers lies in one integer
        most_sigma = MOST_SIGMA_IN_HALVES / math.sqrt(len(masking.keepers))
    least = LEAST_SIGMA * step / noising.budget.noise
    most = most_sigma * step / multiplier(noising, fewest)
    return least * (1 + _ROUNDING), min(most * (1 - _ROUNDING), _MOST_CLIP)
