"""The data of one site, as a model eats it: samples to train on and samples to test on."""

from collections.abc import Sequence, Sized
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.utils.data import Dataset, TensorDataset, default_collate

from console import TaskError

Samples = tuple[Tensor, Tensor] | Dataset[Any]
"""(inputs, targets) with equal first dimensions, or a map-style data set whose items are (input, target)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """A site's training and test samples; None where it has none."""

    train: Samples | None = None
    test: Samples | None = None


def count(samples: Samples | None) -> int:
    """The number of samples, 0 for None. Raises TaskError when inputs and targets differ in it."""
    match samples:
        case None:
            return 0
        case (inputs, targets):
            if len(inputs) != len(targets):
                raise TaskError(f"the data have {len(inputs)} inputs but {len(targets)} targets")
            return len(inputs)
        case Sized():
            return len(samples)
    raise TaskError(f"a data set of type {type(samples).__name__} has no length; use a map-style data set")


def take(samples: Samples, indices: Tensor) -> tuple[Tensor, Tensor]:
    """The batch (inputs, targets) of the samples at `indices`, int64 of shape (batch,)."""
    if isinstance(samples, TensorDataset):
        samples = (samples.tensors[0], samples.tensors[1])
    if isinstance(samples, tuple):
        inputs, targets = samples
        return inputs[indices], targets[indices]
    batch: Sequence[Tensor] = default_collate([samples[index] for index in indices.tolist()])
    if len(batch) != 2:
        raise TaskError(f"a sample of {type(samples).__name__} has {len(batch)} parts; expected (input, target)")
    return batch[0], batch[1]
