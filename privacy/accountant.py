"""What sums with Gaussian noise give away: mu of all releases, and epsilon and delta from it, exactly.

A release of a sum whose sensitivity is C, with noise of standard deviation z C on each coordinate, has mu = 1/z; many,
each made in knowledge of those before, have mu = sqrt(sum of 1/z^2) together (Dong, Roth & Su 2022, corollary 3.3).
For that mu the least delta of an epsilon is known in closed form (Balle & Wang 2018, theorem 8; Phi is the normal
distribution function):

    delta(epsilon) = Phi(mu/2 - epsilon/mu) - exp(epsilon) Phi(-mu/2 - epsilon/mu)

Everybody takes part in every round here, as far as this is concerned: no privacy is claimed for having been sampled.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping

LEAST_NOISE, MOST_NOISE = 1e-6, 1e6
_SERIES_FROM = 6.0
"""Below it, erfc is as exact as the fraction; above, it soon leaves the range of float64, and 60 terms are plenty."""
_TERMS = 60
_MARGIN = 1e-12


def charge_of(noise: float) -> float:
    """mu^2 of one release with this noise multiplier z: 1/z^2. ValueError for one that nobody can mean."""
    if not LEAST_NOISE <= noise <= MOST_NOISE:
        raise ValueError(f"noise must be from {LEAST_NOISE:g} to {MOST_NOISE:g} times the clip, not {noise:g}")
    return 1.0 / (noise * noise)


def mu_of(noises: Iterable[float], *, spent_mu2: float = 0.0) -> float:
    """mu of releases with these noise multipliers, after others that came to ``spent_mu2``. None: 0."""
    return math.sqrt(mu2_of(noises, spent_mu2=spent_mu2))


def mu2_of(noises: Iterable[float], *, spent_mu2: float = 0.0) -> float:
    """The same squared, which is what adds up: the sum of 1/z^2, rounded once, in whatever order they come."""
    return mu2_of_counted(Counter(noises), spent_mu2=spent_mu2)


def mu2_of_counted(releases: Mapping[float, int], *, spent_mu2: float = 0.0) -> float:
    """The same, to the bit, of noise multipliers with how many releases had each.

    n charges are added as c 2^k for the binary digits of n, so the sum is exact.
    """
    if not 0 <= spent_mu2 < math.inf:
        raise ValueError(f"what was spent before is mu^2, a number from 0 on, not {spent_mu2:g}")
    parts = [
        charge_of(noise) * 2.0**digit
        for noise, num in releases.items()
        for digit in range(num.bit_length())
        if num >> digit & 1
    ]
    return math.fsum([spent_mu2, *parts])


def delta_of(epsilon: float, mu: float) -> float:
    """The least delta with which releases of this mu are (epsilon, delta)-private; ``epsilon`` is at least 0.

    exp(epsilon) Phi(-b) is computed as phi(a) Phi(-b)/phi(b), where a = epsilon/mu - mu/2 and b = a + mu: that is the
    same number, and none of its factors overflows.
    """
    if mu == 0:
        return 0.0
    if math.isinf(mu):
        return 1.0
    a, b = epsilon / mu - mu / 2, epsilon / mu + mu / 2
    density = math.exp(-a * a / 2) / math.sqrt(2 * math.pi)
    return max(0.0, _tail(a) - density * _mills_ratio(b))


def epsilon_of(delta: float, mu: float) -> float:
    """The least epsilon with which releases of this mu are (epsilon, delta)-private, rounded up. 0 without a release.

    ``delta`` is above 0 and below 1; infinite for an infinite mu.
    """
    check_delta(delta)
    if math.isinf(mu):
        return math.inf
    if delta_of(0.0, mu) <= delta:
        return 0.0
    high = 1.0
    while delta_of(high, mu) > delta:
        high *= 2
    return _least(lambda epsilon: delta_of(epsilon, mu) <= delta, high)


def mu_within(epsilon: float, delta: float) -> float:
    """The largest mu that keeps within (epsilon, delta), rounded down by more than ``delta_of`` can be wrong by."""
    check_delta(delta)
    if not 0 < epsilon < math.inf:
        raise ValueError(f"epsilon must be above 0, not {epsilon:g}")
    high = 1.0
    while delta_of(epsilon, high) <= delta:
        high *= 2
    return _least(lambda mu: delta_of(epsilon, mu) > delta, high) * (1 - _MARGIN)


def noise_for(epsilon: float, delta: float, rounds: int, *, spent_mu2: float = 0.0) -> float:
    """The least noise multiplier with which ``rounds`` releases keep within (epsilon, delta), rounded up.

    ValueError if what was spent before leaves nothing, or if no noise that anybody can mean will do.
    """
    most = mu_within(epsilon, delta)
    left = most * most - spent_mu2
    if left <= 0:
        before = epsilon_of(delta, math.sqrt(spent_mu2))
        raise ValueError(f"what was spent before is epsilon {before:.4f} already, which leaves nothing of {epsilon:g}")
    noise = max(math.sqrt(rounds / left), LEAST_NOISE)
    if noise > MOST_NOISE:
        raise ValueError(f"that takes a noise of {noise:.3g} times the clip, in which nothing is left to see")
    while mu2_of([], spent_mu2=spent_mu2 + rounds * charge_of(noise)) > most * most:
        noise = math.nextafter(noise, math.inf)
    return noise


def check_delta(delta: float) -> None:
    """A ValueError for one that is none."""
    if not 0 < delta < 1:
        raise ValueError(f"delta must be above 0 and below 1, not {delta:g}")


def _least(holds: Callable[[float], bool], high: float) -> float:
    """The least float from 0 to ``high`` for which a claim holds that holds for all larger ones."""
    low = 0.0
    while low < (middle := low + (high - low) / 2) < high:
        low, high = (low, middle) if holds(middle) else (middle, high)
    return high


def _tail(x: float) -> float:
    """Phi(-x)."""
    return 0.5 * math.erfc(x / math.sqrt(2))


def _mills_ratio(x: float) -> float:
    """Phi(-x) / phi(x) for x of at least 0; for large x by the continued fraction 1/(x+ 1/(x+ 2/(x+ 3/(x+ …."""
    if x < _SERIES_FROM:
        return _tail(x) * math.exp(x * x / 2) * math.sqrt(2 * math.pi)
    fraction = x
    for term in range(_TERMS, 0, -1):
        fraction = x + term / fraction
    return 1.0 / fraction
