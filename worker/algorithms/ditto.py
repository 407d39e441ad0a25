"""Ditto at the worker (Li et al. 2021, arXiv:2012.04221, algorithm 1): a model of the site's own beside the global one.

    v <- v - lr * (gradient(v) + lam * (v - received))

The global model is trained as ever, and v in a second training with the same plan. v never travels.
"""

from dataclasses import dataclass

from broker.states import State
from worker.algorithms.correct import Sent, Terms


@dataclass(frozen=True, slots=True)
class DittoCorrect:
    """Nothing is added where the global model is trained; ``personal`` is for the other one."""

    lam: float

    def terms(self, received: State, control: State, kept: State) -> Terms:
        return Terms()

    def after(self, sent: Sent, control: State, kept: State) -> State:
        return {}

    def personal(self, received: State) -> Terms:
        """What is added to the gradients of the site's own model."""
        return Terms(pull=self.lam, towards=received)
