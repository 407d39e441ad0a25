"""A step of a user's own, ``path/file.py:object``. Whatever goes wrong in it is a TaskError of one line."""

import hashlib
import inspect
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np

from aggregator.algorithms.step import Block, RoundFacts, Scalars, StepState
from broker.wire import FigureName
from console import TaskError
from learning import blamed, object_in_file

_PARTS = ("server_lr", "init", "scalars", "apply")
_NAME = re.compile(r"[a-z][a-z0-9_]{0,31}")
_TAKEN = ("master",)
_SHAPE = "a step has server_lr, init(num_elements), scalars(before, facts) and apply(mean, state, scalars)"


@dataclass(frozen=True, slots=True)
class Own:
    """Where a user's step is."""

    file: Path
    name: str

    @classmethod
    def parse(cls, text: str) -> "Own | None":
        """None if the text does not name a Python file."""
        file, _, name = text.strip().rpartition(":")
        return cls(Path(file), name.strip()) if file.endswith(".py") and name.strip() else None

    def __str__(self) -> str:
        return f"{self.file}:{self.name}"

    @property
    def recorded(self) -> str:
        """Its name, and what its file holds, wherever that lies."""
        try:
            digest = hashlib.sha256(self.file.expanduser().read_bytes()).hexdigest()
        except OSError as error:
            raise TaskError(f"--server-optimizer {self} cannot be read: {error.strerror}") from error
        return f"{self.file.name}:{self.name} (SHA-256 {digest})"


class OwnStep:
    """A user's step, held to what is promised of one: finite float64 of the right shape, element by element."""

    def __init__(self, inner: Any, name: str) -> None:
        self._inner, self._name = inner, name
        with blamed(f"{name}.server_lr"):
            self.server_lr = _number(inner.server_lr, f"{name}.server_lr")
        if self.server_lr <= 0:
            raise TaskError(f"{name}.server_lr is {self.server_lr:g}; it has to be more than 0")
        self.needs = _known_figures(getattr(inner, "needs", ()), name)
        self._names: frozenset[str] | None = None
        """Of its state; None before the first."""
        self._names = frozenset(self.init(0))
        self._checked = 0
        """The largest number of elements that were compared."""

    @classmethod
    def load(cls, own: Own) -> "OwnStep":
        """The object that is named; a class without arguments is called. A TaskError if it is no step."""
        name = f"--server-optimizer {own}"
        found: Any = object_in_file(own.file, own.name)
        if inspect.isclass(found):
            with blamed(f"{name}()"):
                found = found()
        lacking = [part for part in _PARTS if not hasattr(found, part)]
        lacking += [part for part in _PARTS[1:] if part not in lacking and not callable(getattr(found, part))]
        if lacking:
            raise TaskError(f"{name} (of type {type(found).__name__}) lacks {', '.join(lacking)}; {_SHAPE}")
        return cls(found, name)

    def init(self, num_elements: int) -> StepState:
        with blamed(f"{self._name}.init({num_elements})"):
            state = self._inner.init(num_elements)
        return self._state_of(state, num_elements, "init()")

    def scalars(self, before: Scalars, facts: RoundFacts) -> Scalars:
        with blamed(f"{self._name}.scalars()"):
            found = self._inner.scalars(dict(before), facts)
        if not isinstance(found, Mapping):
            raise TaskError(f"{self._name}.scalars() returned {type(found).__name__}, not a dict of numbers by name")
        return {
            str(name): _number(value, f"{self._name}.scalars() has {name!r}, which") for name, value in found.items()
        }

    def apply(self, mean: Block, state: StepState, scalars: Scalars) -> tuple[Block, StepState]:
        """Half of the first and of each much larger block is stepped again by itself: its bits have to be the same."""
        half = len(mean) // 2
        again = mean[:half].copy() if half > self._checked else None
        direction, after = self._applied(mean, state, scalars)
        if again is not None:
            self._checked = len(mean)
            alone, _ = self._applied(again, {name: values[:half] for name, values in state.items()}, scalars)
            if alone.tobytes() != direction[:half].tobytes():
                raise TaskError(
                    f"{self._name}.apply() gives an element another value in a shorter block; each may depend only on"
                    " itself, by numpy's +, -, *, / and sqrt, and what needs all of them belongs into scalars()"
                )
        return direction, after

    def _applied(self, mean: Block, state: StepState, scalars: Scalars) -> tuple[Block, StepState]:
        num_elements = len(mean)
        for values in state.values():
            values.flags.writeable = False
        with blamed(f"{self._name}.apply()"):
            returned = self._inner.apply(mean, state, dict(scalars))
        if not isinstance(returned, tuple) or len(returned) != 2:
            raise TaskError(f"{self._name}.apply() returned {type(returned).__name__}, not (direction, next state)")
        self._check(returned[0], num_elements, "apply() returned a direction that")
        return returned[0], self._state_of(returned[1], num_elements, "apply()")

    def _state_of(self, state: object, num_elements: int, where: str) -> StepState:
        if not isinstance(state, Mapping):
            raise TaskError(
                f"{self._name}.{where} returned {type(state).__name__} as state, not a dict of arrays by name"
            )
        for name, values in state.items():
            if name in _TAKEN:
                raise TaskError(
                    f"{self._name}.{where} calls a part of its state {name!r}, which is what fedmq calls the values of"
                    " a model in half precision; give it another name"
                )
            if not isinstance(name, str) or not _NAME.fullmatch(name):
                raise TaskError(
                    f"{self._name}.{where} calls a part of its state {name!r}; names are like velocity or v_2"
                )
            self._check(values, num_elements, f"{where} returned a state in which {name!r}")
        if self._names is not None and self._names != frozenset(state):
            returned, wanted = (", ".join(sorted(each)) or "nothing" for each in (state, self._names))
            raise TaskError(f"{self._name}.{where} returned a state of {returned}; its init(0) has {wanted}")
        return state

    def _check(self, values: object, num_elements: int, where: str) -> None:
        if not isinstance(values, np.ndarray) or values.dtype != np.float64 or values.shape != (num_elements,):
            what = f"{values.dtype}{list(values.shape)}" if isinstance(values, np.ndarray) else type(values).__name__
            raise TaskError(f"{self._name}.{where} is {what}, not a float64 array of {num_elements} elements")
        if not np.isfinite(values).all():
            raise TaskError(f"{self._name}.{where} has NaN or infinity, in element {int(np.isfinite(values).argmin())}")


def _known_figures(needs: object, name: str) -> tuple[FigureName, ...]:
    known = get_args(FigureName)
    if not isinstance(needs, tuple | list) or not set(needs) <= set(known):
        raise TaskError(f"{name}.needs is {needs!r}; it takes the names of figures: {', '.join(known)}")
    return tuple(needs)


def _number(value: object, what: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float | np.floating) or not math.isfinite(value):
        raise TaskError(f"{what} is {value!r}, not a finite number")
    return float(value)
