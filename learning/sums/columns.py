"""What statistics are taken of: a site's samples as columns of numbers, and their labels, batch by batch.

A task of one's own has ``features()``, a mapping of names to one number a sample (NaN: missing), and perhaps
``labels()``, whole numbers from 0. Of a Supervised task, the inputs are taken apart: images, with three dimensions or
more, by channel, over all of their pixels; all else element by element. Integer targets are the labels.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from console import TaskError
from learning.split import IMAGE, Samples, count, take
from learning.supervised import SupervisedTask
from learning.user_code import blamed

MAX_FEATURES = 4096
_BATCH = 4096

Values = NDArray[np.float64]
Batch = tuple[Values, NDArray[np.int64] | None]
"""Values, float64 of shape (values of each feature, features), and the labels of the same samples, if they have any."""


@dataclass(frozen=True, slots=True)
class Columns:
    """The samples of one site."""

    names: tuple[str, ...]
    """Of the features; empty if they have none."""
    num_samples: int
    own: Batch | None = None
    """As a task has them; None: ``samples`` are to be taken apart."""
    samples: Samples | None = None

    def __iter__(self) -> Iterator[Batch]:
        if self.own is not None:
            yield self.own
        if self.samples is not None:
            for indices in torch.split(torch.arange(self.num_samples), _BATCH):
                yield _apart(*take(self.samples, indices))

    @property
    def num_features(self) -> int:
        """As the first sample has them; 0 if there is none and they have no names."""
        if self.names or self.samples is None:
            return len(self.names)
        return int(_apart(*take(self.samples, torch.arange(1)))[0].shape[1])


def columns_of(task: Any) -> Columns:
    """The samples that a task has at its site: at the aggregator, its test data. TaskError if it says none."""
    if callable(getattr(task, "features", None)):
        return _own(task)
    if isinstance(task, SupervisedTask):
        samples = task.split.test if task.site.is_aggregator else task.split.train
        return Columns(tuple(task.problem.features), count(samples), samples=samples if count(samples) else None)
    raise TaskError(
        "the task says nothing of its features: give it a method features(), which returns names and one number a"
        " sample for each, see docs/statistics.md"
    )


def _own(task: Any) -> Columns:
    with blamed("the task's features()"):
        given = task.features()
        if not isinstance(given, Mapping):
            raise TaskError(f"the task's features() returned {type(given).__name__}; expected names and numbers")
        columns = [np.asarray(values, np.float64) for values in given.values()]
    names = tuple(map(str, given))
    for name, column in zip(names, columns, strict=True):
        if column.ndim != 1 or len(column) != len(columns[0]):
            raise TaskError(
                f"the task's features() have {name!r} of shape {list(column.shape)}; expected one number for each of"
                f" {len(columns[0])} samples"
            )
    labels = None
    if callable(getattr(task, "labels", None)):
        with blamed("the task's labels()"):
            labels = np.asarray(task.labels()).ravel().astype(np.int64)
    num_samples = len(columns[0]) if columns else 0
    return Columns(names, num_samples, own=(np.stack(columns, axis=1), labels) if num_samples else None)


def _apart(inputs: torch.Tensor, targets: torch.Tensor) -> Batch:
    if inputs.ndim > IMAGE:
        inputs = inputs.movedim(1, -1).reshape(-1, inputs.shape[1])
    values = inputs.reshape(len(inputs), -1).double().numpy()
    is_label = not (targets.is_floating_point() or targets.is_complex())
    return values, targets.reshape(-1).to(torch.int64).numpy() if is_label else None


def num_classes_of(task: Any) -> int:
    """How many labels there are, as the task says with ``num_classes`` or its model's outputs show; 0: not known."""
    if (said := getattr(task, "num_classes", None)) is not None:
        return int(said)
    if not isinstance(task, SupervisedTask) or not count(samples := task.split.test) or samples is None:
        return 0
    inputs, targets = take(samples, torch.arange(1))
    if targets.is_floating_point() or targets.is_complex():
        return 0
    model = task.model().eval()
    with torch.no_grad(), blamed("the task's model on a test sample"):
        outputs = model(inputs)
    return int(outputs.shape[1]) if outputs.ndim > 1 else 0
