"""``plan.correct``: adds what a correction asks for to the gradients of a model, once in each step."""

from collections.abc import Iterable, Mapping

import torch
from torch import nn

from console import TaskError
from worker.algorithms.correct import Terms

_CALL = "call plan.correct(model.parameters()) after loss.backward() and before optimizer.step(), in each step"


class Corrector:
    """For one training of ``model``; ``others`` has the further names of tied tensors, with the names they go by."""

    def __init__(self, model: nn.Module, terms: Terms, *, others: Mapping[str, str]) -> None:
        self._terms = terms
        self._wanted = terms.names
        named = model.named_parameters(remove_duplicate=False)
        self._names = {id(parameter): others.get(name, name) for name, parameter in named}
        self._ready: dict[str, tuple[torch.Tensor | None, torch.Tensor | None]] = {}
        """The terms of each parameter that was corrected, where it is and of its dtype."""

    def __call__(self, parameters: Iterable[nn.Parameter]) -> None:
        with torch.no_grad():
            for parameter in parameters:
                name = self._names.get(id(parameter))
                if name is None:
                    raise TaskError("plan.correct() was given a parameter that is not the model's")
                if parameter.requires_grad and name in self._wanted:
                    self._correct(name, parameter)

    def _correct(self, name: str, parameter: nn.Parameter) -> None:
        if name not in self._ready:
            self._ready[name] = self._of(name, parameter)
        linear, towards = self._ready[name]
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
        if linear is not None:
            parameter.grad.add_(linear)
        if towards is not None:
            parameter.grad.add_(parameter - towards, alpha=self._terms.pull)

    def _of(self, name: str, parameter: nn.Parameter) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        linear = self._terms.linear.get(name)
        towards = self._terms.towards.get(name) if self._terms.pull else None
        device, dtype = parameter.device, parameter.dtype
        return (
            None if linear is None else linear.to(device, dtype),
            None if towards is None else towards.to(device, dtype),
        )

    @property
    def complaint(self) -> str | None:
        """What a training did not do, in words; None if each parameter was corrected at least once."""
        missing = sorted(self._wanted - self._ready.keys())
        if not missing:
            return None
        if not self._ready:
            return f"the task's train() never called plan.correct(), and this run has a --correction: {_CALL}"
        return f"the task's train() never gave '{missing[0]}' to plan.correct(): {_CALL}"
