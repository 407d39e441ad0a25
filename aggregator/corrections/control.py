"""SCAFFOLD's server control variate on its way to the workers: the set of tensors ``control`` beside the model's.

It is float32, whatever the model is: what is lost by that is lost on both sides, since the server reckons with what
it sent. Where nobody counts yet it is 0.
"""

from collections.abc import Collection, Iterator
from itertools import accumulate, groupby

import numpy as np
from numpy.typing import NDArray

from aggregator.state import ModelFile
from broker import CONTROL
from broker.states import raw, to_grid
from broker.wire import Buffer, KeptSpecs, Specs, canonical, tensor_sets

CONTROL_SUM, CONTROL_REST = "control_sum", "control_rest"
"""The companions with the sum of all workers' control variates: in float64, and what that lacks."""
_BLOCK = 2**20
"""Elements that are made at once."""


def broadcast(total: NDArray[np.float64], population: float) -> NDArray[np.float32]:
    """What workers are told: the mean of the control variates of all who ever counted, on the grid of their sum."""
    if not population:
        return np.zeros(len(total), np.float32)
    return to_grid((total / population).astype(np.float32)).astype(np.float32)


def control_specs(specs: Specs, stepped: Collection[str]) -> KeptSpecs:
    """The specs of the set for a model with these specs: one for each tensor that is trained."""
    return canonical(spec._replace(dtype="float32") for spec in specs if spec.name in stepped)


def with_control(
    model: ModelFile, total: ModelFile | None, specs: Specs, sent: Specs, *, population: float
) -> Iterator[Buffer]:
    """The payload of both sets, piece by piece; ``specs`` are those of the model, ``sent`` those of both.

    ``total`` is the companion; None: all control variates are 0.
    """
    sums = None if total is None else total.mapped(specs)
    starts = accumulate((spec.num_elements for spec in specs), initial=0)
    places = {spec.name: start for spec, start in zip(specs, starts, strict=False)}
    of_model = groupby(model.values(specs, [(spec,) for spec in specs]), key=lambda piece: piece[0])
    for spec in sent:
        of_set, name = tensor_sets.place(spec.name, (CONTROL,))
        if of_set == CONTROL:
            yield from _control(sums, places[name], spec.num_elements, population=population)
        else:
            _, pieces = next(of_model)
            yield from (raw(values) for _, _, values in pieces)


def _control(sums: NDArray[np.float64] | None, first: int, num_elements: int, *, population: float) -> Iterator[Buffer]:
    """One tensor of the set; ``first`` is the place of its first element among those of the model."""
    for begin in range(0, num_elements, _BLOCK):
        num = min(_BLOCK, num_elements - begin)
        block = np.zeros(num) if sums is None else sums[first + begin : first + begin + num]
        yield memoryview(broadcast(block, population)).cast("B")  # type: ignore[arg-type]
