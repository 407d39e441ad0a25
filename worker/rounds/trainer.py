"""One local training, pure: a state and a plan in, a delta out. It knows no queue and no other worker."""

import functools
import hashlib
import math
import random
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import nn

from broker.modules import ALL, ModelTensors
from broker.states import Batched, State, delta_of, first_not_finite, has_diverged, is_finite
from broker.wire import (
    MAX_METRIC_NAME,
    MAX_METRICS,
    MAX_NUM_SAMPLES,
    METRIC_NAME,
    LocalTraining,
    Operation,
    Specs,
    delta_specs,
    difference,
    kept,
)
from console import Arguments, FedmqError, TaskError
from learning import Measured, Plan, Task, blamed, evaluating, forget_gradients, made_by, numbers_of, prepare
from learning.devices import Parallel
from learning.sums import SitsOut, arrays_of, is_sum_task, operations_of
from worker.algorithms import Corrector, Terms

_OWN = "personal."
"""Prefix of the metrics of a site's own model."""
_NUM_SAMPLES = ("num_samples",)


@dataclass(frozen=True, slots=True)
class Trained:
    """The result of one local training."""

    delta: State
    """Trained minus received, of the shared tensors: floating-point ones in their dtype, integer ones as int64."""
    home: State
    """The tensors that are not shared, after training."""
    num_samples: int
    train_s: float
    metrics: dict[str, float]
    figures: dict[str, float] = field(default_factory=dict)
    """What the plan asked for besides."""


class NoUpdate(FedmqError):
    """A training that ended without an update for its round; why is in the message."""


class Diverged(NoUpdate):
    """A training that ended in NaN or infinity. Its update is of no use; the next model may be."""


def derived_seed(seed: int, round_number: int, worker: str) -> int:
    """The seed of one local training: the same for the same (seed of the run, round, worker), on any machine."""
    text = f"{seed}/{round_number}/{worker}".encode()
    return int.from_bytes(hashlib.sha256(text).digest()[:8], "little") >> 1


def plan_of(local: LocalTraining, **own: Any) -> Plan:
    """One local training as the aggregator asks for it; ``own`` are the fields that it does not set."""
    asked = local.model_dump(exclude={"plan_args"})
    return Plan(**asked, args=Arguments(local.plan_args, flag="--plan-arg"), **own)


class Trainer:
    """A task with its model on the first of some devices; the model's memory is reused from round to round.

    ``model`` is the module to train, by default a new one of the task's.
    """

    def __init__(self, task: Task, *, devices: Sequence[str] = ("cpu",), model: nn.Module | None = None) -> None:
        self.devices, self.device = devices, devices[0]
        self._task = task
        model = new_model(task) if model is None else model
        self.tensors = ModelTensors.of(model)
        """Of the model as the task makes it; tied buffers come apart when they move to a device."""
        self._model = model.to(self.device)
        self._told: tuple[Mapping[str, Sequence[float]], Mapping[str, torch.Tensor]] | None = None
        """The statistics that the task was told last, and the same as tensors."""
        self._fitting: tuple[Specs, Sequence[str]] | None = None
        """What fitted last: it stays the same for a whole run."""

    @property
    def specs(self) -> Specs:
        """The tensors of the model that can travel, each once."""
        return self.tensors.specs

    def misfit(self, specs: Specs, shared: Sequence[str] = ALL) -> str | None:
        """Why these specs are not those of the shared tensors of this task's model; None if they are."""
        if (specs, shared) == self._fitting:
            return None
        try:
            misfit = difference(self.tensors.shared(shared), specs)
        except ValueError as error:
            return f"shares tensors that are not here: {error}"
        self._fitting = (specs, shared) if misfit is None else self._fitting
        return misfit

    def home(self, shared: Specs, *, seed: int) -> State:
        """The tensors that are not shared, as a run begins with them: the same at every site, as ``seed`` is."""
        if len(shared) == len(self.specs):
            return {}
        return _rest(self.tensors.taken_from(new_model(self._task, seed=seed)), shared)

    def evaluate(self, state: Mapping[str, torch.Tensor]) -> Measured:
        """The task's metrics of a received model on the site's own held-out data."""
        self.tensors.put_into(self._model, state)
        with evaluating(self._model), blamed("the task's evaluate()"):
            return Measured.of(_checked(numbers_of(self._task.evaluate(self._model), "evaluate")))

    def evaluate_own(self, state: Mapping[str, torch.Tensor], beside: Measured) -> Measured:
        """The metrics of the received model with those of the site's own, as ``personal.…``."""
        own = {f"{_OWN}{name}": value for name, value in self.evaluate(state).metrics.items()}
        return replace(beside, metrics=_checked({**beside.metrics, **own}))

    def train(
        self,
        state: Mapping[str, torch.Tensor],
        plan: Plan,
        shared: Specs | None = None,
        *,
        terms: Terms | None = None,
    ) -> Trained:
        """Trains from ``state``, of which ``shared`` (None: all) are to travel, with ``terms`` on its gradients.

        The same state, plan and data give the same bits with the same number of threads.
        TaskError if the task gives no usable num_samples; Diverged if training ends in NaN or infinity.
        """
        begun_at = time.perf_counter()
        received = self._on_device(state)
        returned = self._run_task(received, plan, terms)
        train_s = time.perf_counter() - begun_at
        figures = _figures_in(returned, plan)
        measured = Measured.of(returned)
        num_samples = _num_samples(measured.num_samples)
        shared = self.specs if shared is None else shared
        trained = self.tensors.within(self._model)
        delta, home = delta_of(trained, received, delta_specs(shared)), _rest(trained, shared)
        self._check_has_converged(delta, home, state)
        return Trained(delta, home, num_samples, train_s, _checked(measured.metrics), figures)

    def _on_device(self, state: Mapping[str, torch.Tensor]) -> Mapping[str, torch.Tensor]:
        """The state where the model is: on a GPU the delta is made there, and only that is copied back."""
        if self.device == "cpu":
            return state
        if isinstance(state, Batched):
            return state.to(self.device)
        return {name: tensor.to(self.device) for name, tensor in state.items()}

    def own(self, state: State, plan: Plan, terms: Terms) -> State:
        """The site's own model, trained from ``state``. Diverged if that ends in NaN or infinity."""
        self._run_task(state, plan, terms)
        trained = _rest(self.tensors.taken_from(self._model), ())
        broken = next((name for name, new in trained.items() if has_diverged(new, state[name])), None)
        if broken is not None:
            raise Diverged(f"training of the site's own model gave NaN or infinity in '{broken}'")
        return trained

    def _run_task(self, state: Mapping[str, torch.Tensor], plan: Plan, terms: Terms | None) -> dict[str, float]:
        """Trains the model in place; returns what the task does."""
        if is_sum_task(self._task):
            raise TaskError("the run trains its model, and this task only sums up; is --task the one that it has?")
        _seed_everything(plan.seed)
        self.tensors.put_into(self._model, state)
        self._model.train()
        forget_gradients(self._model)  # a task that never does this would add to the gradients of another training
        corrector = None if terms is None else Corrector(self._model, terms, others=self.tensors.others)
        parallel = Parallel(self.devices) if len(self.devices) > 1 else None
        if corrector is not None:
            plan = replace(plan, correct=corrector)
        if parallel is not None:
            plan = replace(plan, parallel=parallel)
        with blamed("the task's train()"):
            returned = self._task.train(self._model, plan)
            returned = dict(numbers_of(returned, "train"))
        forget_gradients(self._model)  # nobody needs them until the next training
        complaints = [each.complaint for each in (corrector, parallel) if each is not None and each.complaint]
        if complaints and not plan.cancelled():
            raise TaskError(complaints[0])
        return returned

    def prepare(self, statistics: Mapping[str, Sequence[float]]) -> Mapping[str, torch.Tensor]:
        """Tells the task what its run says of all sites' samples, if that is new to it; returns it for its plan."""
        if self._told is None or self._told[0] != statistics:
            self._told = dict(statistics), prepare(self._task, statistics)
        return self._told[1]

    def sums(self, state: Mapping[str, torch.Tensor], plan: Plan, operations: Mapping[str, Operation]) -> Trained:
        """What the task sums up at this site for a received model, as a delta that has these tensors alone.

        TaskError if it sums up nothing, or not what is asked for; Diverged if that is NaN, or a sum is infinite.
        """
        task = self._task
        if not is_sum_task(task) or operations_of(task) != operations:
            raise TaskError("the run sums up what this task does not; is --task the one that the aggregator has?")
        _seed_everything(plan.seed)
        self.tensors.put_into(self._model, state)
        begun_at = time.perf_counter()
        try:
            with torch.no_grad(), blamed("the task's sums()"):
                returned = task.sums(self._model, plan)
        except SitsOut as error:
            raise NoUpdate(str(error)) from error
        with blamed("the task's sums()"):
            num_samples = numbers_of({name: returned[name] for name in _NUM_SAMPLES if name in returned}, "sums")
        train_s = time.perf_counter() - begun_at
        like = {spec.name: state[spec.name] for spec in self.specs if spec.name in operations}
        given = arrays_of(returned, like, operations)
        for name, tensor in given.items():
            if tensor.is_floating_point() and (
                tensor.isnan().any() or (operations[name] == "sum" and not is_finite(tensor))
            ):
                raise Diverged(f"the task's sums() gave NaN or infinity in '{name}'")
        return Trained(given, {}, _num_samples(num_samples.get("num_samples"), "sums"), train_s, {})

    def _check_has_converged(self, delta: State, home: State, before: Mapping[str, torch.Tensor]) -> None:
        """Raises Diverged for a delta that cannot be averaged, or for what would stay here and spoil the next round.

        What is not trained and stays here may be anything.
        """
        broken = first_not_finite(delta)
        trained = self.tensors.trained
        lost = None if broken is None else first_not_finite({name: delta[name] for name in delta if name in trained})
        kept = (name for name, new in home.items() if name in trained and has_diverged(new, before[name]))
        lost = lost or next(kept, None)
        if lost is not None:
            raise Diverged(f"training gave NaN or infinity in '{lost}'; a smaller --lr may help")
        if broken is None:
            return
        what = "gave NaN or infinity in" if is_finite(before[broken]) else "changed NaN or infinity in"
        raise Diverged(
            f"training {what} '{broken}', which has no mean; if it is to be so, the aggregator's --shared '!{broken}'"
            " leaves it at the sites; else a smaller --lr may help"
        )


def new_model(task: Task, *, seed: int = 0) -> nn.Module:
    """A model of the task's. What its values and attributes are drawn from is ``seed``, in any process."""
    _seed_everything(seed)
    return made_by(task.model)


def _seed_everything(seed: int) -> None:
    if _has_accelerator():
        torch.manual_seed(seed)
    else:
        torch.default_generator.manual_seed(seed)  # the same, without recording a stack trace for each absent device
    np.random.seed(seed % 2**32)
    random.seed(seed)


@functools.cache
def _has_accelerator() -> bool:
    return torch.cuda.is_available() or torch.backends.mps.is_available() or torch.xpu.is_available()


def _figures_in(returned: dict[str, float], plan: Plan) -> dict[str, float]:
    """Takes what the plan asks for out of what a training returned; a TaskError names what is missing or useless.

    A training that was cancelled may lack some, or have taken no step. Only then is it asked whether it was: whoever is
    told that its round is over does not send the update, and late ones are to be told at the aggregator.
    """
    figures: dict[str, float] = {}
    for name in sorted(plan.figures):
        value = returned.pop(name, None)
        is_of_use = value is not None and 0 <= value < math.inf and (value > 0 or name == "loss_before")
        if not is_of_use and plan.cancelled():
            return {}
        if value is None:
            raise TaskError(f"the task's train() must return {name}, by which this run weighs updates; {_HINTS[name]}")
        if not is_of_use:
            raise TaskError(f"the task's train() returned {name} {value:g}; {_HINTS[name]}")
        figures[name] = float(value)
    return figures


_HINTS = {
    "num_steps": "it is the number of optimizer steps",
    "update_norm1": "for plain SGD with the plan's lr, momentum and mu it is plan.update_norm1(num_steps); for other"
    " optimizers there is no such number, and neither --weighting samples nor --correction feddyn needs it",
    "loss_before": "it is the mean loss of the received model on the training data, 0 or more",
    "aggregation_weight": "it is a number above 0",
}


def _num_samples(value: float | None, method: str = "train") -> int:
    if value is None or not 1 <= value <= MAX_NUM_SAMPLES or value != int(value):
        gave = "no finite number" if value is None else f"{value:.10g}"
        advice = "; a task that has none to train on says so with has_samples()" if value == 0 else ""
        raise TaskError(
            f"the task's {method}() must return num_samples, from 1 to {MAX_NUM_SAMPLES}; it gave {gave}{advice}"
        )
    return int(value)


def _rest(state: Mapping[str, torch.Tensor], shared: Specs) -> State:
    names = set(kept(shared).names)
    if names.issuperset(state):
        return {}
    return {name: tensor.detach().to("cpu", copy=True) for name, tensor in state.items() if name not in names}


def _checked(metrics: Mapping[str, float]) -> dict[str, float]:
    """The metrics as numbers, NaN and infinity among them. TaskError if there are too many, or a name cannot travel."""
    if len(metrics) > MAX_METRICS:
        raise TaskError(f"the task gave {len(metrics)} metrics; at most {MAX_METRICS} can travel")
    for name in metrics:
        if not re.fullmatch(METRIC_NAME, name):
            shown = name if len(name) <= 60 else f"{name[:60]}…"
            raise TaskError(
                f"the task's metric {shown!r} has a name that cannot travel; use letters, digits and ._@/-, at most"
                f" {MAX_METRIC_NAME} of them"
            )
    return {name: float(value) for name, value in metrics.items()}
