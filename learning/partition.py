"""Which samples of a labelled pool lie at which site: `iid`, `dirichlet:ALPHA`, `shards:K` or `draws:K`.

Everything is a function of (labels, partition, seed): every process finds the same parts without asking.

- `iid`: equal parts at random.
- `dirichlet:ALPHA`: each site draws its label proportions from Dirichlet(ALPHA, ..., ALPHA) and fills an
  equal share of the pool with them, taking what is left where a label has run out (Hsu, Qi and Brown 2019,
  arXiv:1909.06335; with equally frequent labels their alpha is ALPHA times the number of labels). Small is
  skewed, large is iid.
- `shards:K`: the pool, sorted by label, is cut into equal shards and each site gets K of them (McMahan et al.
  2017, arXiv:1602.05629).
- `draws:K`: each site draws K samples at random by its name, so the parts of two sites may overlap, and there may be
  more sites than samples.
"""

import functools
import hashlib
import math
from dataclasses import dataclass
from typing import assert_never

import numpy as np
from numpy.typing import ArrayLike, NDArray

from console import TaskError
from learning.task import Site

DRAWN_SHARE = 8
"""A site known only by its name draws one part in this many of the pool."""

FORMS = "iid, dirichlet:ALPHA with ALPHA > 0, shards:K or draws:K with K >= 1"

Indices = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Iid:
    """Parts with the label proportions of the pool."""


@dataclass(frozen=True, slots=True)
class Dirichlet:
    """Parts with label proportions drawn from Dirichlet(alpha, ..., alpha)."""

    alpha: float


@dataclass(frozen=True, slots=True)
class Shards:
    """Parts of `per_site` shards of the pool sorted by label, hence of few labels each."""

    per_site: int


@dataclass(frozen=True, slots=True)
class Draws:
    """Parts of `size` samples, drawn by each site for itself."""

    size: int


Disjoint = Iid | Dirichlet | Shards
Partition = Disjoint | Draws


def parse_partition(text: str) -> Partition:
    """The partition that `text` names; ValueError with the accepted forms for any other text."""
    law, _, parameter = text.partition(":")
    try:
        if text == "iid":
            return Iid()
        if law == "dirichlet" and 0 < float(parameter) < math.inf:
            return Dirichlet(float(parameter))
        if law == "shards" and int(parameter) >= 1:
            return Shards(int(parameter))
        if law == "draws" and int(parameter) >= 1:
            return Draws(int(parameter))
    except ValueError:
        pass  # the parameter is no number: same answer as for a number out of range
    raise ValueError(f"unknown partition {text!r}; write {FORMS}")


def split(labels: ArrayLike, partition: Disjoint, num_sites: int, *, seed: int) -> list[Indices]:
    """`num_sites` disjoint, sorted index arrays that cover the pool, each with at least one sample.

    `labels` is one-dimensional. Part sizes differ by at most one (`shards`: by at most one a shard).
    Raises ValueError when the pool is too small to give every site, or every shard, a sample.
    """
    classes = _classes(labels)
    generator = _generator("split", seed)
    num_pieces = num_sites * (partition.per_site if isinstance(partition, Shards) else 1)
    if not 1 <= num_pieces <= len(classes):
        raise ValueError(
            f"{len(classes)} samples cannot be split into {num_pieces} parts, none empty; for any number of sites:"
            " draws:K, with parts that overlap"
        )
    match partition:
        case Iid():
            parts = np.array_split(generator.permutation(len(classes)), num_sites)
        case Dirichlet(alpha):
            parts = _dirichlet_parts(classes, alpha, num_sites, generator=generator)
        case Shards(per_site):
            shards = np.array_split(_sorted_by_class(classes, generator), num_pieces)
            dealt = generator.permutation(num_pieces).reshape(num_sites, per_site)
            parts = [np.concatenate([shards[shard] for shard in hand]) for hand in dealt]
        case _:
            assert_never(partition)
    return [np.sort(part) for part in parts]


def draw(labels: ArrayLike, partition: Partition, name: str, *, seed: int) -> Indices:
    """The sorted indices of about an eighth of the pool (of `draws:K`, of K samples), for a site by its name alone.

    Label proportions follow the same law as in `split`. Nothing about the site but its name enters the draw, so
    any number of sites may come and nobody counts them; the price is that two sites' parts may overlap. Raises
    ValueError when the pool has fewer than K samples.
    """
    classes = _classes(labels)
    generator = _generator("draw", seed, name)
    size = max(1, len(classes) // DRAWN_SHARE)
    match partition:
        case Iid():
            part = generator.permutation(len(classes))[:size]
        case Dirichlet(alpha):
            pools = _pools(classes, generator)
            part = _take(pools, generator.dirichlet(np.full(len(pools), alpha)), size)
        case Shards(per_site):
            num_shards = max(per_site, min(DRAWN_SHARE * per_site, len(classes)))
            shards = np.array_split(_sorted_by_class(classes, generator), num_shards)
            part = np.concatenate([shards[shard] for shard in generator.permutation(num_shards)[:per_site]])
        case Draws(count):
            if count > len(classes):
                raise ValueError(f"{count} samples cannot be drawn out of {len(classes)}")
            part = generator.permutation(len(classes))[:count]
        case _:
            assert_never(partition)
    return np.sort(part)


def part_of(labels: ArrayLike, site: Site) -> Indices:
    """The sorted indices of the samples at `site`: one of `num_sites` parts, or a draw by its name.

    Raises TaskError when the partition is unknown, the pool too small for it, or the site the aggregator.
    """
    if site.name is None:
        raise TaskError("the aggregator holds no part of the training data; give the site a name")
    try:
        partition = parse_partition(site.partition)
        if isinstance(partition, Draws) or site.index is None or site.num_sites is None:
            return draw(labels, partition, site.name, seed=site.seed)
        pool = _classes(labels).tobytes()
        return _split_once(pool, partition, site.num_sites, seed=site.seed)[site.index].copy()
    except ValueError as error:
        raise TaskError(f"no data for site {site.name!r}: {error}") from error


@functools.lru_cache(maxsize=2)
def _split_once(pool: bytes, partition: Disjoint, num_sites: int, *, seed: int) -> list[Indices]:
    """``split`` of int64 labels; a process that has many of the sites splits the pool once, and not for each."""
    return split(np.frombuffer(pool, dtype=np.int64), partition, num_sites, seed=seed)


def hold_out(labels: ArrayLike, *, one_in: int, seed: int) -> tuple[Indices, Indices]:
    """Disjoint, sorted indices (kept, held out) that cover the pool; one in `one_in` is held out, by label.

    Of fewer than `one_in` samples, none is held out.
    """
    order = _sorted_by_class(_classes(labels), _generator("hold out", seed))
    is_held_out = np.arange(len(order)) % one_in == one_in - 1
    return np.sort(order[~is_held_out]), np.sort(order[is_held_out])


def _dirichlet_parts(
    classes: Indices, alpha: float, num_sites: int, *, generator: np.random.Generator
) -> list[Indices]:
    pools = _pools(classes, generator)
    proportions = generator.dirichlet(np.full(len(pools), alpha), size=num_sites)
    sizes = [len(part) for part in np.array_split(classes, num_sites)]
    return [_take(pools, proportions[site], sizes[site]) for site in range(num_sites)]


def _take(pools: list[Indices], proportions: NDArray[np.float64], size: int) -> Indices:
    """Removes `size` indices from the front of `pools`, in the given proportions as far as they last."""
    taken: list[Indices] = []
    missing = size
    while missing:
        left = np.array([len(pool) for pool in pools])
        wanted = np.where(left > 0, proportions, 0.0)
        counts = np.minimum(_apportion(missing, wanted if wanted.sum() > 0 else left), left)
        for label, count in enumerate(counts):
            taken.append(pools[label][:count])
            pools[label] = pools[label][count:]
        missing -= int(counts.sum())
    return np.concatenate(taken)


def _apportion(total: int, shares: NDArray[np.float64] | Indices) -> Indices:
    """Whole numbers that add up to `total`, in proportion to `shares`, by the largest remainder."""
    exact = total * (shares / shares.sum())
    counts: Indices = np.floor(exact).astype(np.int64)
    largest_first = np.argsort(counts - exact, kind="stable")
    counts[largest_first[: total - counts.sum()]] += 1
    return counts


def _pools(classes: Indices, generator: np.random.Generator) -> list[Indices]:
    """The indices of each class, in random order."""
    boundaries = np.cumsum(np.bincount(classes))[:-1]
    return np.split(_sorted_by_class(classes, generator), boundaries)


def _sorted_by_class(classes: Indices, generator: np.random.Generator) -> Indices:
    order = generator.permutation(len(classes))
    return order[np.argsort(classes[order], kind="stable")]


def _classes(labels: ArrayLike) -> Indices:
    """The labels as 0..num_classes-1, whatever they were."""
    values = np.asarray(labels)
    if values.ndim != 1 or len(values) == 0:
        raise ValueError(f"labels must be one-dimensional and not empty; they have shape {values.shape}")
    return np.unique(values, return_inverse=True)[1].astype(np.int64)


def _generator(purpose: str, seed: int, name: str = "") -> np.random.Generator:
    """A generator that is the same on every machine (Python's own hash is not)."""
    digest = hashlib.sha256(f"{purpose}/{seed}/{name}".encode()).digest()
    return np.random.Generator(np.random.PCG64(int.from_bytes(digest[:16], "big")))
