"""``--correction`` as a value: what workers do against the drift of local training, and what both ends keep for it.

Workers and aggregator know no more of each other than this: the name of a correction and its parameters. What a worker
does is in ``worker.algorithms``, what the server does in ``aggregator.corrections``.
"""

from dataclasses import dataclass, field
from typing import Annotated, Any

from pydantic import Field

from console import parse_named, text_of_named

CONTROL = "control"
"""The set of tensors with SCAFFOLD's server control variate, one in float32 for each trained tensor that is shared."""


def scaffold_weight(update_norm1: float, lr: float) -> float:
    """What SCAFFOLD multiplies a delta by, at both ends: by minus this, it is a mean of corrected gradients."""
    return 1.0 / (update_norm1 * lr)


@dataclass(frozen=True, slots=True)
class Nothing:
    """Local training as it is."""


@dataclass(frozen=True, slots=True)
class Scaffold:
    """Control variates (Karimireddy et al. 2020, arXiv:1910.06378, option II)."""


@dataclass(frozen=True, slots=True)
class FedDyn:
    """Dynamic regularization (Acar et al. 2021, arXiv:2111.04263)."""

    alpha: Annotated[float, Field(gt=0, le=1e6)] = 0.1


@dataclass(frozen=True, slots=True)
class Ditto:
    """A personal model beside the global one (Li et al. 2021, arXiv:2012.04221, algorithm 1)."""

    lam: Annotated[float, Field(ge=0, le=1e6)] = 0.1
    """Its pull towards the global model; 0: it is trained alone."""


Method = Nothing | Scaffold | FedDyn | Ditto

_METHODS: dict[str, type[Any]] = {"none": Nothing, "scaffold": Scaffold, "feddyn": FedDyn, "ditto": Ditto}


@dataclass(frozen=True, slots=True)
class Correction:
    """One of them, with its parameters."""

    method: Method = field(default_factory=Nothing)

    @classmethod
    def parse(cls, text: str) -> "Correction":
        """From ``NAME`` or ``NAME:key=value``, as settings and heads have it. Anything else is a ValueError."""
        return cls(parse_named(text, _METHODS))

    def __str__(self) -> str:
        return text_of_named(self.method, _METHODS)

    def __bool__(self) -> bool:
        """Whether it is one: then what workers carry counts only as far as their updates do."""
        return not isinstance(self.method, Nothing)

    @property
    def sets(self) -> tuple[str, ...]:
        """The sets of tensors that travel with the model for it."""
        return (CONTROL,) if isinstance(self.method, Scaffold) else ()
