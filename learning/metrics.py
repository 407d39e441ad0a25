"""About metrics: which way is better, which ones people look for first, how many samples they are means over.

And what a task may return for them.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Literal, TypeVar

from console import TaskError

V = TypeVar("V")

_NUM_SAMPLES = "num_samples"
_FALLING = ("loss", "error", "perplexity", "mae", "mse")
_EXPECTED = "expected names and numbers, such as {'num_samples': 100, 'loss': 0.5}"

AT_SITES = "eval."
"""Prefix of the metrics that workers measured of a received model."""
IN_TRAINING = "train."
"""Prefix of the metrics that workers measured while they trained."""
USUAL_METRICS = tuple(f"{place}{name}" for place in ("", AT_SITES, IN_TRAINING) for name in ("accuracy", "loss"))
"""The metrics that people look for, in the order in which they are shown: of central test data, then the workers'."""


class Direction(StrEnum):
    """Which way a metric becomes better."""

    MIN = "min"
    MAX = "max"

    @classmethod
    def of(cls, metric: str) -> "Direction":
        """By its name: losses and errors fall, everything else rises."""
        return cls.MIN if any(word in metric for word in _FALLING) else cls.MAX

    def is_better(self, value: float, than: float) -> bool:
        """Whether a value is better; what is no finite number is better than nothing."""
        return math.isfinite(value) and (value < than if self is Direction.MIN else value > than)


def rank(metric: str) -> int:
    """A metric's place when several are shown in a row: the usual ones first, in their order, then all others."""
    return USUAL_METRICS.index(metric) if metric in USUAL_METRICS else len(USUAL_METRICS)


def bare(metric: str) -> str:
    """Its name without the place where it was measured."""
    return metric.removeprefix(AT_SITES).removeprefix(IN_TRAINING)


def at_sites(metrics: Mapping[str, V]) -> dict[str, V]:
    """Those that workers measured of a received model; values may be of any kind."""
    return {name: value for name, value in metrics.items() if name.startswith(AT_SITES)}


def but_at_sites(metrics: Mapping[str, V]) -> dict[str, V]:
    """All others."""
    return {name: value for name, value in metrics.items() if not name.startswith(AT_SITES)}


NotFinite = Literal["nan", "inf", "-inf"]


def finite(metrics: Mapping[str, float]) -> dict[str, float]:
    """The metrics that are finite numbers."""
    return {name: value for name, value in metrics.items() if math.isfinite(value)}


def not_finite(metrics: Mapping[str, float]) -> dict[str, NotFinite]:
    """What the others are."""
    return {name: _word(value) for name, value in metrics.items() if not math.isfinite(value)}


def plain(metrics: Mapping[str, float]) -> dict[str, float | NotFinite]:
    """The metrics as JSON has room for them: what is no finite number as the word for it."""
    return {name: value if math.isfinite(value) else _word(value) for name, value in metrics.items()}


def restored(metrics: Mapping[str, float | str]) -> dict[str, float]:
    """What ``plain`` was given."""
    return {name: float(value) for name, value in metrics.items()}


def _word(value: float) -> NotFinite:
    return "nan" if math.isnan(value) else "inf" if value > 0 else "-inf"


@dataclass(frozen=True, slots=True)
class Measured:
    """The metrics that a task gave for one model, and separately the number of samples that they are means over."""

    metrics: Mapping[str, float] = field(default_factory=dict)
    num_samples: float | None = None
    """None if the task did not say."""

    @classmethod
    def of(cls, recorded: Mapping[str, float | str]) -> "Measured":
        """From one mapping with ``num_samples`` among the metrics, as tasks, messages and ledgers have it."""
        metrics = restored(recorded)
        num_samples = metrics.pop(_NUM_SAMPLES, None)
        return cls(metrics, num_samples if num_samples is None or math.isfinite(num_samples) else None)

    def recorded(self) -> dict[str, float]:
        """What ``of`` takes."""
        return ({} if self.num_samples is None else {_NUM_SAMPLES: self.num_samples}) | dict(self.metrics)


def numbers_of(returned: object, method: str) -> dict[str, float]:
    """The metrics that the task's ``method`` returned: numbers of any kind, tensors and arrays with one element."""
    if not isinstance(returned, Mapping):
        raise TaskError(f"the task's {method}() returned {_kind(returned)}; {_EXPECTED}{_advice(returned)}")
    for name in returned:
        if not isinstance(name, str):
            raise TaskError(f"the task's {method}() returned a metric called {name!r}, {_kind(name)}; names are text")
    return {name: _number(name, value, method) for name, value in returned.items()}


def _number(name: str, value: Any, method: str) -> float:
    try:
        value = value.item() if hasattr(value, "item") else value
        if hasattr(value, "__float__") or hasattr(value, "__index__"):
            return float(value)
    except (TypeError, ValueError, RuntimeError, OverflowError):
        pass  # more than one element, complex, or too large
    raise TaskError(f"the task's {method}() returned the metric {name!r} as {_kind(value)}; expected one number")


def _kind(value: object) -> str:
    """A value for people: its type, and what of it is short."""
    kind = type(value).__name__
    if value is None:
        return "None"
    if isinstance(value, tuple) and len(value) <= 4:
        return f"a tuple of ({', '.join(type(item).__name__ for item in value)})"
    shape = getattr(value, "shape", None)
    if shape is not None:
        return f"a {kind} of shape {list(shape)}"
    text = " ".join(repr(value).split())
    article = "an" if kind[0] in "aeiou" else "a"
    return f"{article} {kind}, {text if len(text) <= 40 else text[:40] + '…'}"


def _advice(returned: object) -> str:
    """What to do with an answer that another framework takes."""
    match returned:
        case (_, int(), Mapping()):
            return ", and no more: the model is trained in place, and num_samples is one of the metrics"
    return ""
