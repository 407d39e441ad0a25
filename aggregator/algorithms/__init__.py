"""Server optimizers: what the mean of a round does to the model. One file a paper, each pure."""

from aggregator.algorithms.fedavg import FedAvg
from aggregator.algorithms.fedexp import FedExP
from aggregator.algorithms.named import ServerOptimizer
from aggregator.algorithms.step import Block, RoundFacts, Scalars, Step, StepState, added, figures_of, state_names

__all__ = [
    "Block",
    "FedAvg",
    "FedExP",
    "RoundFacts",
    "Scalars",
    "ServerOptimizer",
    "Step",
    "StepState",
    "added",
    "figures_of",
    "state_names",
]
