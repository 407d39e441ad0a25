"""The contract of a task that is summed up rather than trained: k-means, normal equations, statistics.

Each round, every site gives named arrays for the model that it received; those of all sites are put together exactly,
and the aggregator makes the next model from them. What a round gives is the same as if all samples lay in one place.
"""

import re
from collections.abc import Mapping
from typing import Any, Literal, Protocol, TypeGuard, cast

import numpy as np
import torch
from torch import Tensor, nn

from console import TaskError
from learning.task import Plan

Operation = Literal["sum", "min", "max"]
OPERATIONS: tuple[Operation, ...] = ("sum", "min", "max")


class SumTask(Protocol):
    """A learning problem whose next model follows from sums over all samples."""

    operations: Mapping[str, Operation]
    """The tensors of the model that sites give, and how those of all sites become one: ``sum``, ``min`` or ``max``."""

    def model(self) -> nn.Module:
        """A new model; what it is made of, and a tensor (a buffer will do) for each array that sites give.

        float64 and int64 tensors lose nothing.
        """
        ...

    def sums(self, model: nn.Module, plan: Plan) -> Mapping[str, Any]:
        """What this site gives for the received model: an array for names among ``operations``, and ``num_samples``.

        A name that is left out adds nothing to a sum, and does not count among extremes.
        """
        ...

    def apply(self, model: nn.Module, sums: Mapping[str, Tensor]) -> None:
        """At the aggregator: makes the next model of this one, in place. ``sums`` has what all sites gave together."""
        ...

    def evaluate(self, model: nn.Module) -> Mapping[str, float]:
        """As in a Task."""
        ...


def is_sum_task(task: object) -> TypeGuard[SumTask]:
    """Whether a task is summed up: it has ``sums()`` and ``apply()``."""
    return callable(getattr(task, "sums", None)) and callable(getattr(task, "apply", None))


def operations_of(task: SumTask) -> dict[str, Operation]:
    """The task's ``operations``; a TaskError if they are none."""
    given: Any = getattr(task, "operations", None)
    if not isinstance(given, Mapping) or not given:
        raise TaskError(
            "a task with sums() needs operations, such as operations = {'sum': 'sum', 'lowest': 'min'}: the tensors of"
            " its model that sites give, and how they become one"
        )
    for name, operation in given.items():
        if operation not in OPERATIONS:
            raise TaskError(f"operations[{name!r}] is {operation!r}; expected {', '.join(OPERATIONS)}")
    return {str(name): cast(Operation, operation) for name, operation in given.items()}


def neutral(operation: Operation, like: Tensor) -> Tensor:
    """What changes nothing: 0 in a sum; the largest number there is for a minimum, the smallest for a maximum."""
    if operation == "sum":
        return torch.zeros_like(like)
    if like.is_floating_point():
        return torch.full_like(like, np.inf if operation == "min" else -np.inf)
    limits = torch.iinfo(like.dtype)
    return torch.full_like(like, limits.max if operation == "min" else limits.min)


def arrays_of(returned: object, like: Mapping[str, Tensor], operations: Mapping[str, Operation]) -> dict[str, Tensor]:
    """The arrays that ``sums()`` returned, in the dtypes and shapes of the tensors ``like``; a TaskError if unfit.

    ``num_samples`` is none of them.
    """
    if not isinstance(returned, Mapping):
        raise TaskError(f"the task's sums() returned {type(returned).__name__}; expected names and arrays")
    for name in returned:
        if name != "num_samples" and name not in operations:
            raise TaskError(f"the task's sums() returned {name!r}, which is not in its operations")
    return {
        name: _array(name, returned[name], tensor) if name in returned else neutral(operations[name], tensor)
        for name, tensor in like.items()
    }


def _array(name: str, given: Any, like: Tensor) -> Tensor:
    try:
        tensor = torch.as_tensor(np.asarray(given.detach().cpu() if isinstance(given, Tensor) else given))
    except (TypeError, ValueError) as error:
        raise TaskError(f"the task's sums() returned {name!r} as {type(given).__name__}, not an array") from error
    if tuple(tensor.shape) != tuple(like.shape):
        raise TaskError(
            f"the task's sums() returned {name!r} of shape {list(tensor.shape)}; the model's has {list(like.shape)}"
        )
    if tensor.is_complex() or (tensor.is_floating_point() and not like.is_floating_point()):
        kind = re.sub("^torch.", "", str(tensor.dtype))
        raise TaskError(f"the task's sums() returned {name!r} as {kind}; the model's is of integers")
    return tensor.to(like.dtype)
