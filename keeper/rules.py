"""Which requests a keeper answers: pure, by its own settings, the roster and its ledger, never by the request's word.

A sum of masks is given for at least so many sites, once for a round of a run, for one set of updates; for the same set,
asked with the same messages, again. Each reason for a refusal names who or what it is about.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from broker.wire import EXTRA_STEP, KeeperRequest, SealedSeed, digest_of_set
from console import some_of
from keeper.ledger import Charge
from privacy import MOST_SIGMA_IN_HALVES, Budget, GaussianNoise, count_noise, model_noise

_MOST_NAMED = 5


@dataclass(frozen=True, slots=True)
class Noise:
    """The noise that a keeper adds to each sum, and the budget that it is taken from."""

    multiplier: float
    """Standard deviation, in multiples of the clip."""
    epsilon: float
    delta: float
    spent_mu2: float = 0.0
    """What was spent on the same data before this ledger began: the sum of 1 / multiplier^2."""


@dataclass(frozen=True, slots=True)
class Terms:
    """What a keeper asks for, whoever asks."""

    name: str
    min_sites: int
    """The larger one of its own floor and the roster's."""
    noise: Noise | None = None
    takes_running: bool = False
    """Whether a blank ledger may begin in the middle of a run."""


@dataclass(frozen=True, slots=True)
class Past:
    """What the ledger knows that bears on a request."""

    charged: Charge | None = None
    """The answer for this round."""
    used: frozenset[str] = frozenset()
    """Workers whose seeds for this round are in an answer."""
    noises: Mapping[float, int] = field(default_factory=dict)
    """Noise multiplier -> how many answers had that noise, of all runs."""
    noises_of_run: Mapping[float, int] = field(default_factory=dict)
    """Those of this run alone."""
    num_without_noise: int = 0
    """How many answers of this run had none."""


@dataclass(frozen=True, slots=True)
class Seed:
    """A seed's message whose signature is right, and the site that its worker is of."""

    head: SealedSeed
    site: str
    sha256: str
    """Of the message."""


@dataclass(frozen=True, slots=True)
class Granted:
    """The sum may be given."""

    num_sites: int
    num_updates: int = 0
    noise: float | None = None
    """The multiplier that all of it costs; None: no noise."""
    clip: float | None = None
    step: float | None = None
    within_at: int | None = None
    """As in ``SealedSeed``."""
    is_repeat: bool = False
    """Whether the ledger has it already: nothing is charged again."""

    @property
    def sigma(self) -> float | None:
        """Standard deviation of the noise, in units of the integers. A ValueError if there are too few updates."""
        if self.noise is None or self.clip is None or self.step is None:
            return None
        multiplier = self.noise if self.within_at is None else model_noise(self.noise, self.num_updates)
        return multiplier * self.clip / self.step

    @property
    def count_sigma(self) -> float | None:
        """That of the noise on how many updates were within an adaptive clip, in units of that integer."""
        if self.noise is None or self.within_at is None:
            return None
        return count_noise(self.num_updates) / EXTRA_STEP


@dataclass(frozen=True, slots=True)
class Refused:
    """The sum is not given."""

    reason: str
    is_final: bool = False
    """Whether no other set of this round can be given, either."""
    ends_run: bool = False
    """Whether no later round can."""
    unfit: Mapping[str, str] = field(default_factory=dict)
    """Workers that the set may be asked for without, and why."""


def judge(request: KeeperRequest, seeds: Sequence[Seed], terms: Terms, past: Past) -> Granted | Refused:
    """Whether the sum of the masks of these seeds, all there are in the request, may be given."""
    if past.charged is not None:
        return _again(request, past.charged)
    return (
        _of_a_wrong_set(request, seeds)
        or _of_used(seeds, past)
        or _of_few_sites(seeds, terms)
        or _with_noise(seeds, terms, past)
    )


def misfit(request: KeeperRequest, seed: SealedSeed) -> str | None:
    """Why a seed is none for what is asked; None if it is."""
    if seed.keeper != request.keeper:
        return f"its seed is for keeper {seed.keeper}"
    if (seed.run_id, seed.round) != (request.run_id, request.round):
        return f"its seed is for round {seed.round} of run {seed.run_id}: it was used or sent before"
    if (seed.num_words, seed.num_halves) != (request.num_words, request.num_halves):
        return (
            f"its mask has {seed.num_words} and {seed.num_halves} integers of 8 and 4 bytes,"
            f" and {request.num_words} and {request.num_halves} are asked for"
        )
    return None


def _again(request: KeeperRequest, charged: Charge) -> Granted | Refused:
    if (request.set_sha256, request.seeds_sha256) != (charged.set_sha256, charged.seeds_sha256):
        other = "another set" if request.set_sha256 != charged.set_sha256 else "the same set with other seeds"
        return Refused(
            f"asked for {other}: round {charged.round} of run {charged.run_id} was released for {charged.num_updates}"
            f" updates of {charged.num_sites} sites, and is for no other",
            is_final=True,
        )
    return Granted(
        charged.num_sites,
        charged.num_updates,
        charged.noise,
        charged.clip,
        charged.step,
        charged.within_at,
        is_repeat=True,
    )


def from_before(request: KeeperRequest, terms: Terms, *, is_blank: bool) -> Refused | None:
    """A refusal if a ledger that knows of no run is asked for what one that was lost may have released."""
    if not is_blank or request.round <= 1 or terms.takes_running:
        return None
    return Refused(
        f"keeper {terms.name} has a new ledger, and run {request.run_id} is at round {request.round}: if an earlier"
        " ledger was lost, begin a new run, with a new key of the keeper; if not, start it with --takes-running",
        is_final=True,
    )


def _of_a_wrong_set(request: KeeperRequest, seeds: Sequence[Seed]) -> Refused | None:
    twice = [name for name, number in Counter(seed.head.worker for seed in seeds).items() if number > 1]
    if twice:
        return Refused(f"more than one seed of {some_of(twice, _MOST_NAMED)}: a worker counts once")
    masked = [(seed.head.worker, seed.head.masked_sha256) for seed in seeds]
    if digest_of_set(request.run_id, request.round, masked) != request.set_sha256:
        return Refused("the seeds are not those of the set that is asked for")
    models = Counter(seed.head.model_sha256 for seed in seeds)
    usual = max(models, key=lambda model: (models[model], model), default="")
    others = [seed.head.worker for seed in seeds if seed.head.model_sha256 != usual]
    if others:
        return Refused(
            f"not all were trained from one model: {some_of(others, _MOST_NAMED)} from another than the rest",
            unfit=dict.fromkeys(others, "it was trained from another model than the rest"),
        )
    return None


def _of_used(seeds: Sequence[Seed], past: Past) -> Refused | None:
    used = sorted(seed.head.worker for seed in seeds if seed.head.worker in past.used)
    if not used:
        return None
    return Refused(f"seeds of {some_of(used, _MOST_NAMED)} for this round are in a sum already", is_final=True)


def _of_few_sites(seeds: Sequence[Seed], terms: Terms) -> Refused | None:
    num_sites = len({seed.site for seed in seeds})
    strictest = max(seeds, key=lambda seed: seed.head.min_sites, default=None)
    floor = max(terms.min_sites, strictest.head.min_sites if strictest else 1)
    if num_sites >= floor:
        return None
    who = f"keeper {terms.name} asks" if floor == terms.min_sites or not strictest else f"{strictest.head.worker} asks"
    return Refused(f"{len(seeds)} updates of {num_sites} sites; {who} for at least {floor} sites")


def _with_noise(seeds: Sequence[Seed], terms: Terms, past: Past) -> Granted | Refused:
    num_sites = len({seed.site for seed in seeds})
    clips = _by_clip(seeds)
    if len(clips) > 1:
        named = "; ".join(f"{_spoken(*clip)}: {some_of(who, 2)}" for clip, who in clips.items())
        return Refused(f"the updates were not clipped alike: {named}")
    clip, step, within_at = next(iter(clips))
    wanting = max((seed.head.noise or 0.0, seed.head.worker) for seed in seeds)
    own = 0.0 if terms.noise is None else terms.noise.multiplier
    if own < wanting[0]:
        return Refused(
            f"{wanting[1]} counts on noise of {wanting[0]:g} times the clip, and keeper {terms.name} adds"
            f" {f'only {own:g}' if own else 'none'}: start it with --dp-noise {wanting[0]:g}"
        )
    if terms.noise is None:
        return Granted(num_sites, len(seeds), clip=clip, step=step, within_at=within_at)
    if clip is None or step is None:
        return Refused(
            f"keeper {terms.name} adds noise, and the updates were not clipped: without a bound, no noise is enough"
        )
    granted = Granted(num_sites, len(seeds), terms.noise.multiplier, clip, step, within_at)
    return (
        _of_unfit_noise(granted, seeds)
        or _of_a_spent_budget(terms.noise, clip, terms, past)
        or _of_a_budget_of_workers(terms.noise, clip, past, seeds)
        or granted
    )


def _of_unfit_noise(granted: Granted, seeds: Sequence[Seed]) -> Refused | None:
    try:
        sigma = granted.sigma
        assert sigma is not None
        GaussianNoise(bytes(32), sigma)
    except ValueError as error:
        return Refused(str(error))
    if seeds[0].head.num_halves and sigma > MOST_SIGMA_IN_HALVES:
        return Refused(f"noise of {sigma:.4g} units leaves the range of 32 bits: take 64, or a larger step")
    return None


def _of_a_budget_of_workers(noise: Noise, clip: float, past: Past, seeds: Sequence[Seed]) -> Refused | None:
    """Workers signed what the run's head told them; this keeper's own budget may be larger, and is for all runs."""
    budgets = {(seed.head.epsilon, seed.head.delta): seed.head.worker for seed in seeds}
    for (epsilon, delta), worker in budgets.items():
        if epsilon is None or delta is None:
            continue
        try:
            budget = Budget(clip, noise.multiplier, epsilon, delta, charges=past.noises_of_run)
        except ValueError as error:
            return Refused(f"the budget that {worker} goes by is none: {error}")
        if not budget.may_release_another():
            return Refused(
                f"{worker} goes by a budget of epsilon {epsilon:g} at delta {delta:g}; the sums of this run have come"
                f" to {budget}, and one release more would exceed that"
            )
    return None


def _of_a_spent_budget(noise: Noise, clip: float, terms: Terms, past: Past) -> Refused | None:
    if past.num_without_noise:
        return Refused(
            f"keeper {terms.name} has given {past.num_without_noise} sums of this run without noise, and no budget"
            " covers them: begin a new run",
            is_final=True,
            ends_run=True,
        )
    budget = Budget(clip, noise.multiplier, noise.epsilon, noise.delta, noise.spent_mu2, past.noises)
    if budget.may_release_another():
        return None
    return Refused(
        f"privacy budget is spent: {budget}, and one release more would exceed {noise.epsilon:g}",
        is_final=True,
        ends_run=True,
    )


_Clip = tuple[float | None, float | None, int | None]
"""Norm and step, and where an update says whether it was within the norm, if that adapts."""


def _by_clip(seeds: Sequence[Seed]) -> dict[_Clip, list[str]]:
    """How updates were clipped -> the workers of those that were clipped so."""
    found: dict[_Clip, list[str]] = {}
    for seed in seeds:
        clip = seed.head.clip, seed.head.step, seed.head.within_at
        found.setdefault(clip, []).append(seed.head.worker)
    return found


def _spoken(clip: float | None, step: float | None, within_at: int | None) -> str:
    if clip is None:
        return "not at all"
    return f"to {clip:g} in steps of {step:g}" + (
        "" if within_at is None else f", and integer {within_at} says whether"
    )
