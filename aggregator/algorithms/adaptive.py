"""What the adaptive server optimizers share (Reddi et al. 2021, arXiv:2003.00295, algorithm 2).

m <- beta1 * m + (1 - beta1) * mean          model <- model + server_lr * m / (sqrt(v) + tau)

v begins with tau^2, the least that the paper allows, or with 0, as in most programs. There is no bias correction unless
it is asked for; then the direction is multiplied by sqrt(1 - beta2^t) / (1 - beta1^t) in the t-th step (Kingma & Ba
2015, arXiv:1412.6980, the last lines of section 2).
"""

import math
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from aggregator.algorithms.step import Block, RoundFacts, Scalars, StepState

Beta = Annotated[float, Field(ge=0, lt=1)]
"""What remains of an average after a round."""
Tau = Annotated[float, Field(gt=0, le=1e6)]
"""How adaptive a step is: less, the larger it is."""
FirstSquare = Literal["tau2", "0"]
"""What v begins with."""


def begun(num_elements: int, *, tau: float, v0: FirstSquare) -> dict[str, Block]:
    """m and v before the first step."""
    return {"m": np.zeros(num_elements), "v": np.full(num_elements, tau * tau if v0 == "tau2" else 0.0)}


def first_moment(mean: Block, state: StepState, beta1: float) -> Block:
    return beta1 * state["m"] + (1 - beta1) * mean


def direction(m: Block, v: Block, *, tau: float, scalars: Scalars) -> Block:
    """m / (sqrt(v) + tau), corrected if the scalars say so."""
    step: Block = m / (np.sqrt(v) + tau)
    return step * scalars["correction"] if scalars else step


def correction_after(before: Scalars, *, beta1: float, beta2: float = 0.0) -> Scalars:
    """The scalars of the next step where the bias is corrected. Powers are products: ``pow`` rounds as it likes."""
    power1, power2 = before.get("beta1_power", 1.0) * beta1, before.get("beta2_power", 1.0) * beta2
    return {
        "beta1_power": power1,
        "beta2_power": power2,
        "correction": math.sqrt(1 - power2) / (1 - power1),
    }


@dataclass(frozen=True, slots=True)
class Adaptive:
    """What those with two averages have alike: m of the mean, and v of its square."""

    beta1: Beta = 0.9
    beta2: Beta = 0.99
    tau: Tau = 1e-3
    v0: FirstSquare = "tau2"
    bias_correction: bool = False

    def init(self, num_elements: int) -> StepState:
        return begun(num_elements, tau=self.tau, v0=self.v0)

    def scalars(self, before: Scalars, facts: RoundFacts) -> Scalars:
        return correction_after(before, beta1=self.beta1, beta2=self.beta2) if self.bias_correction else {}
