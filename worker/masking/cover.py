"""Masks over an update, one for each keeper, and their seeds on their way to the keepers.

Seeds are drawn for one body and never written down: a worker that is killed before it has sent an update draws others.
A body that is sent again is the same body, so its seeds are, too.
"""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from broker.states import State
from broker.wire import ModelHead, SealedSeed, Specs, Trust, encode, mask_sizes, place_of_within
from console import IdentityError
from identities import Roster, seal_seed
from privacy import Mask, fresh_seed

_UNSIGNED = {8: np.uint64, 4: np.uint32}
_NOT_SEALED_YET = "0" * 160
_PIECE_BYTES = 2**18


class Covered:
    """The integers of one update under so many fresh masks; ``seeds`` are the masks', and good for this body alone."""

    def __init__(self, integers: State, specs: Specs, *, num_masks: int) -> None:
        self._integers, self._specs = integers, specs
        self._num_covered = 0
        """The bytes that the masks are on already, in place."""
        self.seeds = tuple(fresh_seed() for _ in range(num_masks))

    def pieces(self) -> Iterator[memoryview]:
        """The body, piece by piece: each gets its masks as it leaves, and is still in the cache for its digest.

        A body that is asked for again is the same: what was covered stays so.
        """
        masks, offset = list(map(Mask, self.seeds)), 0
        for spec in self._specs:
            flat = self._integers[spec.name].view(-1).numpy().view(_UNSIGNED[spec.item_bytes])
            for start in range(0, len(flat), _PIECE_BYTES // spec.item_bytes):
                piece = flat[start : start + _PIECE_BYTES // spec.item_bytes]
                if offset >= self._num_covered:
                    for mask in masks:
                        mask.add_to(piece, offset)
                    self._num_covered = offset + piece.nbytes
                offset += piece.nbytes
                yield memoryview(piece).cast("B")  # type: ignore[arg-type]


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
