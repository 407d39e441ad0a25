"""Why a head cannot be answered with a masked or noised update: what does not go together, or is not on the roster."""

from collections.abc import Iterator

from broker.wire import DifferentialPrivacy, Masking, ModelHead
from console import some_of
from identities import Roster
from privacy import RING64_STEP, Budget, GaussianNoise, Ring
from worker.masking.clipping import WITHIN
from worker.masking.noise import sigma_of

_ABOVE_ALL_ROUNDING = 1 + 2.0**-30
"""A run that ends with the last bit of its budget has added up its charges in another order."""


def misfit_of_masking(head: ModelHead, roster: Roster | None) -> str | None:
    """In words for people at both ends; None if nothing is masked or noised, or all is well.

    ``roster`` is the site's own.
    """
    if head.masking is None and head.privacy is None:
        return None
    what = "masks updates" if head.masking is not None else "adds noise"
    wrong = list(_beside(head))
    if wrong:
        return f"the run {what} and also has {some_of(wrong, 3)}, which does not go together"
    return _misfit_of_privacy(head, head.privacy) or _misfit_of_keepers(head.masking, roster)


def _beside(head: ModelHead) -> Iterator[str]:
    """What no aggregator asks for beside it: such a head is by a faulty one, or a hostile one."""
    if head.compression.method != "none":
        yield f"--compression {head.compression.text}"
    if head.compression.zstd:
        yield f"--zstd {head.compression.zstd}"
    if head.correction is not None:
        yield f"--correction {head.correction}"
    if head.purpose != "train":
        yield head.purpose
    figures = [figure for figure in head.figures if head.masking is not None or figure != WITHIN]
    if figures:
        yield f"figures of single updates ({', '.join(figures)})"
    if head.weighting not in (("samples", "uniform") if head.privacy is None else ("uniform",)):
        yield f"--weighting {head.weighting}"
    if head.privacy is not None and head.masking is not None and head.masking.metrics:
        yield "means of metrics without noise"


def _misfit_of_privacy(head: ModelHead, privacy: DifferentialPrivacy | None) -> str | None:
    if privacy is None:
        return None
    integer = next((spec.name for spec in head.update_specs if not spec.is_float), None)
    if integer is not None:
        return (
            f"the run adds noise, and '{integer}' is a tensor of integers; --shared '!{integer}' leaves it at the sites"
        )
    if privacy.where == "keeper" and head.masking is None:
        return "the run has its noise from keepers, and masks no updates"
    if privacy.where == "central" and head.masking is not None:
        return "the run masks updates, and their sum would have no noise before the aggregator has seen it"
    own = _misfit_of_own_noise(head.masking, privacy) if privacy.where == "local" else None
    return own or (None if head.is_finished or head.only_evaluate else _misfit_of_budget(privacy))


def _misfit_of_budget(privacy: DifferentialPrivacy) -> str | None:
    """A budget that one more model would exceed by the head's own figures limits nothing."""
    try:
        most = privacy.epsilon * _ABOVE_ALL_ROUNDING
        budget = Budget(privacy.clip, privacy.noise, most, privacy.delta, spent_mu2=privacy.spent)
    except ValueError as error:
        return f"the run asks for noise that cannot be: {error}"
    if budget.may_release_another():
        return None
    return (
        f"with noise of {privacy.noise:g} times the clip, and mu^2 {privacy.spent:g} spent, one model more is beyond"
        f" the run's own budget of epsilon {privacy.epsilon:g} at delta {privacy.delta:g}"
    )


def _misfit_of_own_noise(masking: Masking | None, privacy: DifferentialPrivacy) -> str | None:
    if masking is not None and masking.bits != 64:
        return f"the run asks for noise of each worker's own, for which integers of {masking.bits} bits have no room"
    if privacy.quantile is not None:
        return "the run asks for noise of each worker's own, and for a clip that follows what workers say without any"
    try:
        Budget(privacy.clip, privacy.noise, privacy.epsilon, privacy.delta)
        GaussianNoise(bytes(32), sigma_of(privacy, RING64_STEP if masking is None else masking.step))
    except ValueError as error:
        return f"the run asks for noise that cannot be: {error}"
    return None


def _misfit_of_keepers(masking: Masking | None, roster: Roster | None) -> str | None:
    if masking is None:
        return None
    if roster is not None:
        missing = [name for name in masking.keepers if roster.opening_key_of(name) is None]
        if missing:
            return f"of the run's keepers, {some_of(missing, 3)} is not on this site's roster"
        if masking.min_sites < roster.min_sites:
            return f"the run opens sums of {masking.min_sites} sites, and the roster asks for {roster.min_sites}"
    try:
        Ring(masking.bits, masking.step, masking.most)
    except ValueError as error:
        return f"the run masks updates in a way that cannot be: {error}"
    return None
