"""One worker's update in a run that masks updates, adds noise, or both: what the head asks for, step by step.

total = delta + residual     clip its norm     cut it towards zero     add this worker's own noise, if it is to
"""

from collections.abc import Mapping

import torch

from broker.states import MaskedEncoding, State
from broker.wire import ModelHead, Specs
from privacy import norm_of, scale_to
from worker.masking.clipping import WITHIN, clipped
from worker.masking.extras import extras_of
from worker.masking.noise import Keys, add_noise, noised, sigma_of
from worker.masking.summand import Summand, summand_of, totals_of


def integers_of(
    head: ModelHead,
    encoding: MaskedEncoding,
    delta: Mapping[str, torch.Tensor],
    residual: Mapping[str, torch.Tensor],
    *,
    num_samples: int,
    metrics: Mapping[str, float],
    keys: Keys,
) -> Summand:
    """What a masked update adds to the sum, without its masks. ``keys`` are those of the worker's own noise.

    CannotBeSummed for a delta that has no place in it.
    """
    masking, privacy = encoding.masking, head.privacy
    totals = totals_of(delta, residual, encoding)
    if privacy is None:
        weight = min(num_samples, masking.most_samples or num_samples) if head.weighting == "samples" else 1
        return summand_of(totals, extras_of(masking.metrics, metrics, weight=weight), encoding, weight=weight)
    scale = scale_to(privacy.clip, norm_of(total.values for total in totals.values()))
    is_within = None if privacy.quantile is None else scale == 1
    extras = extras_of(masking.metrics, metrics, weight=1, is_within=is_within)
    summand = summand_of(totals, extras, encoding, weight=scale, carried=scale)
    if privacy.where == "local":
        add_noise(summand.integers, encoding.specs, sigma_of(privacy, masking.step), keys)
    return summand


def limited(head: ModelHead, delta: State, specs: Specs, *, keys: Keys) -> tuple[State, Mapping[str, float]]:
    """The delta of an update that is not masked, as the head limits what it gives away, and what is said beside it."""
    if head.privacy is None:
        return delta, {}
    if head.privacy.where == "local":
        return noised(delta, specs, head.privacy, keys), {}
    shorter, is_within = clipped(delta, specs, head.privacy.clip)
    return shorter, {WITHIN: float(is_within)} if WITHIN in head.figures else {}
