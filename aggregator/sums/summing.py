"""A run whose task is summed up rather than trained: what is different in it, and the next model that it makes."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch

from aggregator.algorithms import FedAvg
from aggregator.config import AggregatorConfig
from aggregator.rounds import Accumulator
from aggregator.state import ModelFile
from aggregator.sums.totals import Totals
from aggregator.weighing import Weigher, WeightLimits
from broker.modules import ModelTensors
from broker.states import DTYPES, chunks, first_not_finite
from broker.wire import Buffer, Compression, Operation, Purpose, Specs, update_specs
from console import SettingsError, TaskError
from learning import blamed, made_by
from learning.sums import StatisticsTask, SumTask, is_sum_task, operations_of


@dataclass(frozen=True, slots=True)
class Summing:
    """How the updates of a run become its next model."""

    task: SumTask
    operations: dict[str, Operation]
    purpose: Purpose

    @property
    def can_withdraw(self) -> bool:
        """Whether an update that is in can be taken out again: a sum can be undone, an extreme cannot."""
        return all(operation == "sum" for operation in self.operations.values())

    def next_model(self, before: ModelFile, specs: Specs, accumulator: Accumulator) -> Iterator[Buffer]:
        """The payload of the model that the task makes of ``before`` and of what all updates are together.

        TaskError if it is none of the same kind, or has NaN or infinity. LeavesRange if a total has no place.
        """
        assert isinstance(accumulator, Totals)
        model = made_by(self.task.model)
        tensors = ModelTensors.of(model)
        tensors.put_into(model, before.state())
        totals = accumulator.totals()
        with torch.no_grad(), blamed("the task's apply()"):
            self.task.apply(model, totals)
        state = tensors.taken_from(model)
        broken = first_not_finite(state)
        if broken is not None:
            raise TaskError(f"the task's apply() gave NaN or infinity in '{broken}'")
        return chunks(state, specs)


def summing_of(task: object) -> Summing | None:
    """How a task is summed up; None if it is trained."""
    purpose: Purpose = "statistics" if isinstance(task, StatisticsTask) else "sums"
    if not is_sum_task(task):
        return None
    return Summing(task, operations_of(task), purpose)


def for_summing(config: AggregatorConfig, summing: Summing) -> AggregatorConfig:
    """The configuration of a run that is summed up. A SettingsError if it asks for what only training has."""
    told = _does_not_go_with(config)
    if told:
        raise SettingsError(f"{told}: this task is summed up, not trained; leave it out")
    make: Callable[[Specs], Accumulator] = lambda specs: Totals(specs, summing.operations)  # noqa: E731
    return replace(
        config,
        new_accumulator=make,
        can_withdraw=summing.can_withdraw,
        with_settings=lambda changes: for_summing(config.with_settings(changes), summing),
    )


def _does_not_go_with(config: AggregatorConfig) -> str | None:
    if config.sample is not None or "sample" in config.schedules:
        return "--sample or --sample-schedule"
    if config.compression != Compression():
        return f"--compression {config.compression}"
    if config.downlink != "none":
        return f"--downlink {config.downlink}"
    if config.topology.num_shards:
        return f"--shards {config.topology.num_shards}"
    if config.policy.max_staleness:
        return f"--max-staleness {config.policy.max_staleness}"
    if config.correction:
        return f"--correction {config.correction}"
    if config.step != FedAvg() or config.server_lr != 1 or "server_lr" in config.schedules:
        return "--server-optimizer or --server-lr"
    if config.robust != "none":
        return f"--robust {config.robust}"
    if str(config.weigher) != str(Weigher()):
        return f"--weighting {config.weigher}"
    if config.weigher.clip_norm is not None or config.weight_limits != WeightLimits():
        return "--clip-norm, --max-samples or --max-weight"
    return "--shared" if tuple(config.shared) != ("*",) else None


def specs_of_updates(specs: Specs, summing: Summing | None) -> Specs:
    """The specs of what a site sends of a model with these specs. A TaskError if the model lacks what is summed."""
    if summing is None:
        return update_specs(specs, ())
    found = {spec.name: spec for spec in specs}
    half = next((spec for spec in specs if spec.dtype in ("float16", "bfloat16")), None)
    if half is not None:
        raise TaskError(f"the model's {half.name!r} is {half.dtype}; a model that is summed up is float64 or float32")
    for name in summing.operations:
        if name not in found:
            raise TaskError(f"the task's operations have {name!r}, which is no tensor of its model()")
        if not DTYPES[found[name].dtype].is_floating_point and found[name].dtype != "int64":
            raise TaskError(f"the model's {name!r} is {found[name].dtype}; what is summed is float64 or int64")
    return update_specs(specs, summing.operations)
