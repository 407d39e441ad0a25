"""What the server does for a correction, by the value that ``--correction`` is."""

from aggregator.algorithms import Step
from aggregator.corrections.feddyn import FedDynStep
from aggregator.corrections.scaffold import ScaffoldStep
from aggregator.weighing import Normalized, Uniform, Weighting
from broker import Correction, FedDyn, Scaffold


def step_of(correction: Correction) -> Step | None:
    """The step that goes with it; None: any does."""
    match correction.method:
        case Scaffold():
            return ScaffoldStep()
        case FedDyn(alpha):
            return FedDynStep(alpha)
        case _:
            return None


def weighting_of(correction: Correction) -> Weighting | None:
    """How updates have to be weighed with it; None: in any way."""
    match correction.method:
        case Scaffold():
            return Normalized()
        case FedDyn():
            return Uniform()
        case _:
            return None
