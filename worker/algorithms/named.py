"""The correction of a head, as a worker carries it out."""

from broker import Correction, Ditto, FedDyn, Scaffold
from worker.algorithms.correct import Correct
from worker.algorithms.ditto import DittoCorrect
from worker.algorithms.feddyn import FedDynCorrect
from worker.algorithms.scaffold import ScaffoldCorrect


def correct_of(correction: Correction) -> Correct | None:
    """What a worker does for it; None: nothing."""
    match correction.method:
        case Scaffold():
            return ScaffoldCorrect()
        case FedDyn(alpha):
            return FedDynCorrect(alpha)
        case Ditto(lam):
            return DittoCorrect(lam)
        case _:
            return None
