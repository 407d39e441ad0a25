"""Masks over an update, one for each keeper, and their seeds on their way to the keepers.

Seeds are drawn for one body and never written down: a worker that is killed before it has sent an update draws others.
A body that is sent again is the same body, so its seeds are, too.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from broker.states import State
from broker.wire import ModelHead, SealedSeed, Specs, Trust, encode, mask_sizes, place_of_within
from console import IdentityError
from identities import Roster, seal_seed
from privacy import Mask, fresh_seed

_UNSIGNED = {8: np.uint64, 4: np.uint32}
_NOT_SEALED_YET = "0" * 160


def covered(integers: State, specs: Specs, *, num_masks: int) -> tuple[bytes, ...]:
    """Adds so many fresh masks to the integers, in place; returns the masks' seeds, which are good for this alone."""
    seeds = tuple(fresh_seed() for _ in range(num_masks))
    for mask in map(Mask, seeds):
        offset = 0
        for spec in specs:
            mask.add_to(integers[spec.name].numpy().reshape(-1).view(_UNSIGNED[spec.item_bytes]), offset)
            offset += spec.num_bytes
    return seeds


def sealed_seeds(
    seeds: Sequence[bytes],
    head: ModelHead,
    specs: Specs,
    *,
    worker: str,
    instance: str,
    masked_sha256: str,
    min_sites: int,
    roster: Roster,
    trust: Trust,
) -> tuple[bytes, ...]:
    """A signed message for each of the head's keepers, with the seed of its mask, which nobody else can read."""
    assert head.masking is not None
    num_words, num_halves = mask_sizes(specs)
    privacy = head.privacy
    fields: Mapping[str, object] = {
        "run_id": head.run_id,
        "round": head.round,
        "worker": worker,
        "instance": instance,
        "model_sha256": head.sha256,
        "masked_sha256": masked_sha256,
        "num_words": num_words,
        "num_halves": num_halves,
        "min_sites": max(min_sites, head.masking.min_sites, roster.min_sites),
        "clip": None if privacy is None else privacy.clip,
        "step": None if privacy is None else head.masking.step,
        "noise": privacy.noise if privacy is not None and privacy.where == "keeper" else None,
        "epsilon": None if privacy is None else privacy.epsilon,
        "delta": None if privacy is None else privacy.delta,
        "within_at": None if privacy is None or privacy.quantile is None else place_of_within(specs),
        "sealed": _NOT_SEALED_YET,
    }
    return tuple(
        _sealed(seed, SealedSeed.model_validate({**fields, "keeper": keeper}), roster=roster, trust=trust)
        for keeper, seed in zip(head.masking.keepers, seeds, strict=True)
    )


def _sealed(seed: bytes, blank: SealedSeed, *, roster: Roster, trust: Trust) -> bytes:
    opening_key = roster.opening_key_of(blank.keeper)
    if opening_key is None:
        raise IdentityError(f"keeper {blank.keeper} has just been taken off the roster")
    sealed = seal_seed(seed, opening_key, blank.context)
    return encode(blank.model_copy(update={"sealed": sealed}), trust=trust)
