"""The model that a task makes, as far as it can be one for us."""

from collections.abc import Callable, Iterator
from itertools import chain

import torch
from torch import nn

from console import TaskError
from learning.user_code.blame import blamed


def made_by(make: Callable[[], object]) -> nn.Module:
    """What the task's ``model()``, given as ``make``, returns. TaskError if that is no module with values."""
    with blamed("the task's model()"):
        model = make()
    if not isinstance(model, nn.Module):
        what = "None" if model is None else f"an object of type {type(model).__name__}"
        raise TaskError(f"the task's model() returned {what}; expected a torch.nn.Module")
    without = next((name for name, tensor in _tensors(model) if tensor.is_meta), None)
    if without is not None:
        raise TaskError(
            f"the model's '{without}' has no values, for it is on the meta device; make the model on the CPU in the"
            " task's model()"
        )
    return model


def _tensors(model: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    return chain(model.named_parameters(), model.named_buffers())
