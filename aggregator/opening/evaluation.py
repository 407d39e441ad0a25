"""How good a global model is on the task's central test data, if the task has any."""

from torch import nn

from aggregator.state import ModelFile
from broker.modules import ModelTensors
from learning import Measured, Task, blamed, evaluating, numbers_of


class CentralEvaluation:
    """A task's evaluation at the aggregator. Without test data, no model stays in memory.

    Tensors that are not shared stay as they are in ``model``.
    """

    def __init__(self, task: Task, model: nn.Module, tensors: ModelTensors) -> None:
        self._task, self._tensors = task, tensors
        with evaluating(model), blamed("the task's evaluate() at the aggregator"):
            self._model = model if numbers_of(task.evaluate(model), "evaluate") else None

    @property
    def has_data(self) -> bool:
        """Whether there is anything to measure a model on."""
        return self._model is not None

    def __call__(self, model: ModelFile) -> Measured:
        """The metrics of a model; none without test data."""
        if self._model is None:
            return Measured()
        self._tensors.put_into(self._model, model.state())
        with evaluating(self._model), blamed("the task's evaluate() at the aggregator"):
            return Measured.of(numbers_of(self._task.evaluate(self._model), "evaluate"))
