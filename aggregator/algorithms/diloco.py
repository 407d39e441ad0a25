"""DiLoCo's outer optimizer, Nesterov momentum (Douillard et al. 2023, arXiv:2311.08105, algorithm 1 and section 3).

v <- momentum * v + mean          model <- model + server_lr * (mean + momentum * v)

That is ``torch.optim.SGD(lr=server_lr, momentum=momentum, nesterov=True)`` with the negative mean as the gradient. The
paper has 500 local steps of AdamW before each.
"""

from dataclasses import dataclass
from typing import ClassVar

from aggregator.algorithms.fedavgm import FedAvgM
from aggregator.algorithms.step import Block, Scalars, StepState


@dataclass(frozen=True, slots=True)
class DiLoCo(FedAvgM):
    """The velocity is that of FedAvgM, one step ahead."""

    server_lr: ClassVar[float] = 0.7

    def apply(self, mean: Block, state: StepState, scalars: Scalars) -> tuple[Block, StepState]:
        velocity = self.momentum * state["velocity"] + mean
        return mean + self.momentum * velocity, {"velocity": velocity}
