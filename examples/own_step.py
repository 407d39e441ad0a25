"""A server optimizer of one's own: momentum over means that are cut to a length.

fl-simulate --task digits --workers 8 --server-optimizer examples/own_step.py:cut_momentum
"""

import numpy as np


class CutMomentum:
    server_lr = 1.0  # where --server-lr is not given

    def __init__(self, longest, momentum):
        self.longest, self.momentum = longest, momentum

    def init(self, num_elements):
        """What is remembered of each element, by name."""
        return {"velocity": np.zeros(num_elements)}

    def scalars(self, before, facts):
        """Once a round: numbers, from those of the last round and what is known of this one."""
        norm = facts.mean_norm()
        return {"factor": min(1.0, self.longest / norm) if norm > 0 else 1.0}

    def apply(self, mean, state, scalars):
        """Block by block: the direction, which the model moves along, and the next state."""
        velocity = self.momentum * state["velocity"] + scalars["factor"] * mean
        return velocity, {"velocity": velocity}


cut_momentum = CutMomentum(longest=2.0, momentum=0.5)
