"""The order in which a training meets its samples: indices, drawn anew for each epoch from one seed."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from learning.task import Plan


@dataclass(frozen=True, slots=True, kw_only=True)
class Batches:
    """The batches of one whole training; iterating gives int64 index tensors of shape (batch,).

    The last batch of an epoch is smaller where `batch_size` does not divide `num_samples`. With
    `join_single`, a last batch of one sample joins the batch before it instead.
    """

    num_samples: int
    plan: Plan
    join_single: bool = False

    @property
    def sizes(self) -> list[int]:
        """The batch sizes of one epoch."""
        size = min(self.plan.batch_size or self.num_samples, self.num_samples)
        whole, rest = divmod(self.num_samples, size)
        if self.join_single and rest == 1 and size > 1:
            return [*[size] * (whole - 1), size + 1]
        return [size] * whole + ([rest] if rest else [])

    def __len__(self) -> int:
        total = self.plan.epochs * len(self.sizes)
        return min(total, self.plan.max_steps or total)

    def __iter__(self) -> Iterator[Tensor]:
        shuffler = torch.Generator().manual_seed(self.plan.seed)
        num_left = len(self)
        while num_left > 0:
            epoch = torch.randperm(self.num_samples, generator=shuffler)
            batches = torch.split(epoch, self.sizes)[:num_left]
            num_left -= len(batches)
            yield from batches
