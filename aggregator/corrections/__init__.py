"""The server's half of corrections: the steps that go with what workers do, and what heads say of it."""

from aggregator.corrections.control import CONTROL_SUM, control_specs, with_control
from aggregator.corrections.counting import Counting
from aggregator.corrections.serving import step_of, weighting_of

__all__ = [
    "CONTROL_SUM",
    "Counting",
    "control_specs",
    "step_of",
    "weighting_of",
    "with_control",
]
