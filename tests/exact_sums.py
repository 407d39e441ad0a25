"""What tests ask of an exact sum, and nobody else: a whole mean, and one sum added to another."""

import numpy as np

from aggregator.rounds.accumulator import Floats
from aggregator.rounds.exact_sum import ExactSum
from broker.wire.specs import TensorSpec


def mean_of(exact_sum: ExactSum, spec: TensorSpec, total: int) -> Floats:
    """The mean of one tensor, in its shape."""
    whole = np.empty(spec.num_elements)
    for block, mean in exact_sum.means((spec,), total):
        whole[block] = mean
    return whole.reshape(spec.shape)


def add_sum(one: ExactSum, other: ExactSum) -> None:
    """Adds what another sum over the same specs holds, as a partial sum that came over the wire."""
    offset = 0
    for piece in other.limb_pieces():
        one.add_limbs(offset, piece, bound=other.bound)
        offset += len(piece)
    one.end_update()
