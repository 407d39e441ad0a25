"""The data of one site, as a model eats it: samples to train on and samples to test on."""

from collections.abc import Sequence, Sized
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset, TensorDataset, default_collate

from console import TaskError

IMAGE = 3
"""Dimensions of a sample from which on it is an image, whose first dimension is that of channels."""
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


@dataclass(frozen=True, slots=True)
class Scaling:
    """Inputs less a mean, in units of a standard deviation, feature by feature; both float64 of shape (features,).

    Features are those of statistics: the elements of a sample or, of an image, its channels. What does not vary is only
    shifted. A missing value (NaN) becomes the mean.
    """

    mean: Tensor
    std: Tensor

    def of(self, samples: Samples) -> Samples:
        """The same samples, scaled. TaskError if they have another number of features."""
        if isinstance(samples, TensorDataset):
            samples = (samples.tensors[0], samples.tensors[1])
        return (self.inputs(samples[0]), samples[1]) if isinstance(samples, tuple) else _Scaled(samples, self)

    def inputs(self, inputs: Tensor) -> Tensor:
        """A batch of inputs, scaled."""
        shape = inputs.shape[1:2] if inputs.ndim > IMAGE else inputs.shape[1:]
        if shape.numel() != len(self.mean):
            raise TaskError(
                f"the run's statistics are of {len(self.mean)} features, and the samples here have {shape.numel()};"
                " were they taken of this task?"
            )
        shape += (1,) * (inputs.ndim - 1 - len(shape))
        std = torch.where(self.std > 0, self.std, torch.ones_like(self.std))
        scaled = (inputs.double() - self.mean.view(shape)) / std.view(shape)
        dtype = inputs.dtype if inputs.is_floating_point() else torch.get_default_dtype()
        return torch.where(scaled.isnan(), torch.zeros_like(scaled), scaled).to(dtype)


class _Scaled(Dataset[Any]):
    """A map-style data set whose inputs are scaled as they are read."""

    def __init__(self, samples: Dataset[Any], scaling: Scaling) -> None:
        self._samples, self._scaling = samples, scaling

    def __len__(self) -> int:
        return count(self._samples)

    def __getitem__(self, index: int) -> tuple[Tensor, Any]:
        inputs, target = self._samples[index]
        return self._scaling.inputs(torch.as_tensor(inputs)[None])[0], target
