"""FedDyn at the worker (Acar et al. 2021, arXiv:2111.04263, algorithm 1).

    gradient <- gradient - g_i + alpha * (parameter - received)          g_i <- g_i - alpha * delta

What is kept is the sum of the site's own deltas: minus alpha times it is g_i.
"""

from dataclasses import dataclass

from broker.states import State
from worker.algorithms.correct import Sent, Terms
from worker.algorithms.exact_sum import Part, nearest, with_parts


@dataclass(frozen=True, slots=True)
class FedDynCorrect:
    """Keeps the gradient of the site's loss where its last training ended, as far as that came to a minimum."""

    alpha: float

    def terms(self, received: State, control: State, kept: State) -> Terms:
        return Terms({name: self.alpha * nearest(moved) for name, moved in kept.items()}, self.alpha, received)

    def after(self, sent: Sent, control: State, kept: State) -> State:
        return {name: with_parts(kept.get(name), Part(delta)) for name, delta in sent.delta.items()}
