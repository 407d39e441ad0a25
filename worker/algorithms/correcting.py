"""One round of a run with a correction, as a worker goes through it: what it begins with, adds and carries on."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import lru_cache

import torch

from broker import CONTROL, Correction
from broker.states import State
from broker.wire import ModelHead, Specs, tensor_sets
from console import TaskError
from worker.algorithms.correct import CORRECTION, EPOCH, PERSONAL, Correct, Sent, Terms
from worker.algorithms.ditto import DittoCorrect
from worker.algorithms.named import correct_of
from worker.state import Carried


def correction_of(head: ModelHead) -> Correction:
    """What a head asks for; a TaskError if this version does not know it."""
    try:
        correction = _parsed(head.correction or "none")
    except ValueError as error:
        raise TaskError(f"run {head.run_id} has --correction {head.correction}: {error}; {_UPDATE}") from error
    unknown = sorted(set(head.sets) - set(correction.sets))
    if unknown:
        raise TaskError(
            f"the model of run {head.run_id} comes with sets of tensors that this fedmq does not know:"
            f" {', '.join(unknown)}; {_UPDATE}"
        )
    return correction


_UPDATE = "install the version that the aggregator has"
_parsed = lru_cache(maxsize=8)(Correction.parse)
"""The same in every head of a run."""


def misfit_of_control(head: ModelHead, trained: Collection[str]) -> str | None:
    """Why the set of tensors beside the model does not go with it, nor with what is trained here; None if it does."""
    if not head.sets:
        return None
    sets = tensor_sets.split_specs(head.tensors, head.sets)
    shapes = {spec.name: spec.shape for spec in sets[tensor_sets.MODEL] if spec.is_float}
    for spec in sets.get(CONTROL, ()):
        if spec.dtype != "float32" or shapes.get(spec.name) != spec.shape:
            return f"comes with a control variate '{spec.name}' that is not of its tensors"
        if spec.name not in trained:
            return f"comes with a control variate '{spec.name}', which is not trained here"
    return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Correcting:
    """One round."""

    correct: Correct
    epoch: int
    control: State
    """What came with the model."""
    kept: State
    """What was carried of it."""
    received: State
    """The trained tensors of the model that are shared."""
    is_fresh: bool
    """Whether what was carried out of the last update that counted is lost."""

    @classmethod
    def begun(
        cls, head: ModelHead, state: State, control: State, carried: Carried, *, trained: Collection[str], is_lost: bool
    ) -> "Correcting | None":
        """None without a correction. ``state`` is the received model, ``carried`` what its training begins with."""
        correct = correct_of(correction_of(head))
        if correct is None:
            return None
        of_epoch = carried.sets.get(EPOCH, {}).get("control", torch.tensor(-1))
        return cls(
            correct=correct,
            epoch=head.control_epoch,
            control=control,
            kept=carried.sets.get(CORRECTION, {}) if int(of_epoch) == head.control_epoch else {},
            received={name: state[name] for name in names_of(head.model_tensors, trained)},
            is_fresh=is_lost and not isinstance(correct, DittoCorrect),
        )

    @property
    def terms(self) -> Terms:
        """What is added to the gradients of the global model's training."""
        return self.correct.terms(self.received, self.control, self.kept)

    @property
    def personal(self) -> Terms | None:
        """The same for the site's own model; None if it has none."""
        return self.correct.personal(self.received) if isinstance(self.correct, DittoCorrect) else None

    def after(self, delta: State, *, lr: float, figures: Mapping[str, float]) -> dict[str, State]:
        """The sets to be carried on, with the delta that the aggregator has of this training."""
        sent = Sent(delta=delta, lr=lr, figures=figures)
        carried = self.correct.after(sent, self.control, self.kept)
        return {CORRECTION: carried, EPOCH: {"control": torch.tensor(self.epoch)}}


def names_of(specs: Specs, trained: Collection[str]) -> list[str]:
    """The tensors that corrections are about: floating-point, trained and shared."""
    return [spec.name for spec in specs if spec.is_float and spec.name in trained]


def own_model(carried: Carried, state: State) -> State:
    """The site's own model; at first the received one."""
    return {**state, **carried.sets.get(PERSONAL, {})}
