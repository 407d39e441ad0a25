"""Server optimizers: what the mean of a round does to the model. One file a paper, each pure."""

from aggregator.algorithms.fedavg import FedAvg
from aggregator.algorithms.named import ServerOptimizer
from aggregator.algorithms.step import Block, RoundFacts, Scalars, Step, state_names

__all__ = ["Block", "FedAvg", "RoundFacts", "Scalars", "ServerOptimizer", "Step", "state_names"]
