"""FedDyn at the worker (Acar et al. 2021, arXiv:2111.04263, algorithm 1).

gradient <- gradient - g_i + alpha * (parameter - received)          g_i <- g_i - alpha * delta
"""

from dataclasses import dataclass

from broker.states import State
from worker.algorithms.correct import Sent, Terms


@dataclass(frozen=True, slots=True)
class FedDynCorrect:
    """Keeps the gradient of the site's loss where its last training ended, as far as that came to a minimum."""

    alpha: float

    def terms(self, received: State, control: State, kept: State) -> Terms:
        return Terms({name: -g for name, g in kept.items()}, self.alpha, received)

    def after(self, sent: Sent, control: State, kept: State) -> State:
        moved = {name: self.alpha * delta for name, delta in sent.delta.items()}
        return {name: (kept[name] - step if kept else -step) for name, step in moved.items()}
