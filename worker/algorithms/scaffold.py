"""SCAFFOLD at the worker (Karimireddy et al. 2020, arXiv:1910.06378, algorithm 1, option II).

    gradient <- gradient - c_i + c          c_i <- c_i - c - delta / (lr * a_i)

With local momentum both hold as they stand: a_i is then not the number of steps but ``update_norm1``, the sum of the
factors of the gradients, and c_i stays a mean of gradients.
"""

from dataclasses import dataclass

from broker import scaffold_weight
from broker.states import State
from worker.algorithms.correct import Sent, Terms
from worker.algorithms.exact_sum import Part, nearest, with_parts


@dataclass(frozen=True, slots=True)
class ScaffoldCorrect:
    """Keeps the site's control variate, c_i; c is the set of tensors that comes with the model."""

    def terms(self, received: State, control: State, kept: State) -> Terms:
        return Terms({name: c.double() - nearest(kept[name]) if kept else c.double() for name, c in control.items()})

    def after(self, sent: Sent, control: State, kept: State) -> State:
        weight = scaffold_weight(sent.figures["update_norm1"], sent.lr)
        return {
            name: with_parts(kept.get(name), Part(c, times=-1), Part(sent.delta[name], weight, times=-1))
            for name, c in control.items()
        }
