"""Noise that a worker adds to its own update: integers in the ring, from a key that belongs to this one update.

The key follows from the worker's secret and a digest of the integers and of how large their noise is. The same update
gets the same noise when its round is done again, and another update, or other noise, has nothing in common with it: two
sums with the same draw would have their difference in clear.
"""

import hashlib
from collections.abc import Callable, Mapping

import torch

from broker.states import State
from broker.wire import DifferentialPrivacy, Specs
from privacy import RING64_STEP, GaussianNoise, Ring, norm_of, scale_to
from worker.masking.summand import elements_of

Keys = Callable[[bytes], bytes]
"""The key of the noise for the update with this digest (32 bytes each); what it costs is charged by then."""

_LABEL = "fedmq own noise v1"
_BATCH = 2**16
"""Draws at a time: some 100 bytes each."""


def sigma_of(privacy: DifferentialPrivacy, step: float) -> float:
    """The standard deviation, in steps."""
    return privacy.noise * privacy.clip / step


def add_noise(integers: State, specs: Specs, sigma: float, keys: Keys) -> None:
    """Adds noise to the integers, of 64 bits, of these specs, in place."""
    flat = [integers[spec.name].numpy().reshape(-1) for spec in specs]
    digest = hashlib.sha256(f"{_LABEL}|{sigma!r}|".encode())
    for values in flat:
        digest.update(values.data)
    noise = GaussianNoise(keys(digest.digest()), sigma)
    first = 0
    for values in flat:
        for start in range(0, len(values), _BATCH):
            batch = values[start : start + _BATCH]
            batch += noise.at(first + start, len(batch))
        first += len(values)


def noised(delta: Mapping[str, torch.Tensor], specs: Specs, privacy: DifferentialPrivacy, keys: Keys) -> State:
    """An update that is not masked: clipped, made integers, with noise on them, and made floats again."""
    values = {spec.name: elements_of(delta[spec.name]) for spec in specs}
    scale = scale_to(privacy.clip, norm_of(values.values()))
    ring = Ring(64, RING64_STEP, 2 * privacy.clip)
    integers = {name: torch.from_numpy(ring.integers(elements, weight=scale)) for name, elements in values.items()}
    add_noise(integers, specs, sigma_of(privacy, ring.step), keys)
    return {
        spec.name: torch.from_numpy(ring.values(integers[spec.name].numpy(), weight=1))
        .to(delta[spec.name].dtype)
        .reshape(spec.shape)
        for spec in specs
    }
