"""How a run keeps single updates from the aggregator: what a head says of secure aggregation, and of noise.

A masked update consists of integers modulo 2^bits, each with a pseudorandom mask added to it. The masks' seeds are
sealed to the keepers, which give the sum of all masks of a round once, and never that of a single update.
"""

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, StrictInt

from broker.wire.headers.fields import MAX_METRICS, MAX_NUM_SAMPLES, Header, MetricName, RoundNumber, WorkerName

EXTRAS = "#extras"
"""The tensor of a masked update with what it says of itself beside its delta, in 64-bit integers."""
EXTRA_STEP = 2.0**-20
"""One unit of these integers."""
MAX_EXTRA = 2.0**30
"""The magnitude that each of them stays below, so that 8,000 workers' sum stays in range."""
MAX_KEEPERS = 8
FEWEST_MIN_SITES = 2


def _each_once(names: tuple[str, ...]) -> tuple[str, ...]:
    if len(set(names)) != len(names):
        raise ValueError("a name is in it twice")
    return names


class Masking(Header):
    """How every update from a model is masked."""

    bits: Literal[64, 32] = 64
    """Of the integers that stand for the elements of the model's tensors; those of ``EXTRAS`` always have 64."""
    step: Annotated[float, Field(gt=0, lt=1)]
    """One unit of the integers of the model's tensors: they hold weight * delta / step, cut towards zero."""
    most: Annotated[float, Field(gt=0, lt=2**40)]
    """The magnitude of weight * delta up to which an element of one update is taken; more is cut off."""
    min_sites: Annotated[StrictInt, Field(ge=FEWEST_MIN_SITES, lt=2**20)]
    """No sum of the updates of fewer sites is ever opened."""
    keepers: Annotated[tuple[WorkerName, ...], Field(min_length=1, max_length=MAX_KEEPERS), AfterValidator(_each_once)]
    """Who holds the masks' seeds: there is one mask, and one sealed seed, for each."""
    metrics: Annotated[tuple[MetricName, ...], Field(max_length=MAX_METRICS), AfterValidator(_each_once)] = ()
    """What of workers' metrics is averaged: ``train.`` or ``eval.`` and the name of the metric."""
    most_samples: Annotated[StrictInt, Field(ge=1, le=MAX_NUM_SAMPLES)] | None = Field(
        default=None, exclude_if=lambda value: value is None
    )
    """An update with more samples weighs like one with just that many."""


class DifferentialPrivacy(Header):
    """The noise in every model of a run, and the budget that it is taken from.

    The unit is one worker, whose update is zeroed out or not; see docs/privacy.md.
    """

    clip: Annotated[float, Field(gt=0, lt=2**20)]
    """The Euclidean norm, over all tensors that travel, which no update exceeds."""
    noise: Annotated[float, Field(gt=0, lt=2**20)]
    """The standard deviation of the noise in the sum of all updates, in multiples of ``clip``."""
    epsilon: Annotated[float, Field(gt=0, lt=2**20)]
    """The budget: what all models of the run together may cost."""
    delta: Annotated[float, Field(gt=0, lt=1)]
    spent: Annotated[float, Field(ge=0, lt=2**40)] = 0.0
    """What was spent before this model: the sum of 1 / noise^2 over all releases, earlier runs' included."""
    num_releases: RoundNumber = 0
    """How many models of this run have been charged."""
    where: Literal["central", "keeper", "local"] = "central"
    """Who adds the noise: the aggregator, the keepers, or each worker to its own update."""
    quantile: Annotated[float, Field(gt=0, lt=1)] | None = Field(default=None, exclude_if=lambda value: value is None)
    """Of adaptive clipping: the share of the updates that ``clip`` is to leave as they are; None: ``clip`` is fixed."""


def num_extras(masking: Masking, privacy: DifferentialPrivacy | None = None) -> int:
    """How many numbers ``EXTRAS`` has: the weight; for each metric, the weight if there is one, and that times the
    metric; and with adaptive clipping, 1/2 if the delta was within the clip, and -1/2 if it was not."""
    return 1 + 2 * len(masking.metrics) + (privacy is not None and privacy.quantile is not None)
