"""An update that is not masked, no longer than the clip of a run that adds noise."""

from collections.abc import Mapping

import torch

from broker.states import State
from broker.wire import Specs
from privacy import norm_of, scale_to
from worker.masking.summand import elements_of

WITHIN = "within"
"""What a run with an adaptive clip asks for besides: 1 if the delta was no longer than the clip, else 0."""


def clipped(delta: Mapping[str, torch.Tensor], specs: Specs, clip: float) -> tuple[State, bool]:
    """The delta, its Euclidean norm over all its tensors at most ``clip``, in its own dtypes; and whether it was that.

    One that is to be shortened is made so much shorter that rounding to its least precise dtype lengthens it no more.
    """
    norm = norm_of([elements_of(delta[spec.name]) for spec in specs])
    scale = scale_to(clip, norm)
    if scale == 1.0:
        return dict(delta), True
    scale *= 1 - max(torch.finfo(delta[spec.name].dtype).eps for spec in specs)
    shorter = {
        spec.name: (delta[spec.name].to("cpu", torch.float64) * scale).to(delta[spec.name].dtype) for spec in specs
    }
    return shorter, False
