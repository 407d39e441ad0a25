"""Statistics of all sites' samples, feature by feature, as a task that is summed up.

    round 1    count, sum, lowest and highest value
    round 2    shift = sum (x - m), squares = sum (x - m)**2, with the mean m of round 1; a histogram over its range
               mean = m + shift / n        variance = (squares - shift**2 / n) / n
    round 3…   histograms within the bins of the quantiles

This is the corrected two-pass algorithm (Chan, Golub & LeVeque 1983, "Algorithms for computing the sample variance",
eq. 1.7): E[x**2] - E[x]**2 loses all digits where the mean is large. What a round finds is about the sites that
answered in it alone, also if they were others before: the round before only says where to look.
"""

import hashlib
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from console import FedmqError, TaskError
from learning.sums.columns import MAX_FEATURES, Columns, columns_of
from learning.sums.quantiles import bracket_of, histogram, rank_of
from learning.sums.sum_task import Operation
from learning.task import Plan

OPERATIONS: dict[str, Operation] = {
    "count": "sum",
    "missing": "sum",
    "shift": "sum",
    "squares": "sum",
    "lowest": "min",
    "highest": "max",
    "histogram": "sum",
    "refined": "sum",
    "labels": "sum",
    "unlabelled": "sum",
    "samples": "sum",
    "sites": "sum",
}


class SitsOut(FedmqError):
    """A site that has no part in a sum; why is in the message."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """What statistics are taken of; the same at all sites, and told by the shapes and first values of the model."""

    num_features: int
    num_classes: int = 0
    num_bins: int = 32
    levels: tuple[float, ...] = ()
    """Of the quantiles."""
    min_samples: int = 1
    """A site with fewer gives nothing."""
    suppress_below: int = 0
    """Counts of a site that are smaller, and not 0, are withheld; so are its extremes that fewer values reach."""
    names: int = 0
    """``digest_of`` the features' names; 0: they have none."""

    @classmethod
    def shaped_like(cls, shapes: Mapping[str, tuple[int, ...]]) -> "Layout":
        """One whose model has these shapes. TaskError if none has."""
        try:
            (num_features, num_bins), (num_classes,), levels = shapes["histogram"], shapes["labels"], shapes["levels"]
        except (KeyError, ValueError) as error:
            raise TaskError(
                "the run asks for statistics that this fedmq does not know; install the version that it has"
            ) from error
        return cls(num_features=num_features, num_classes=num_classes, num_bins=num_bins - 2, levels=(0.5,) * levels[0])

    def __post_init__(self) -> None:
        if not 1 <= self.num_features <= MAX_FEATURES:
            raise TaskError(
                f"statistics are of 1 to {MAX_FEATURES} features, and the task has {self.num_features}: images have"
                " one for each channel, see docs/statistics.md; a task's features() may give fewer"
            )

    @classmethod
    def of(cls, state: Mapping[str, Tensor]) -> "Layout":
        """The layout that a model has."""
        min_samples, suppress_below, names = (int(value) for value in state["limits"])
        num_features, num_bins = state["histogram"].shape
        return cls(
            num_features=num_features,
            num_classes=len(state["labels"]),
            num_bins=num_bins - 2,
            levels=tuple(float(level) for level in state["levels"]),
            min_samples=min_samples,
            suppress_below=suppress_below,
            names=names,
        )


def digest_of(names: Iterable[str]) -> int:
    """A number for names, in their order; 0 for none."""
    text = "\n".join(names)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") >> 2 if text else 0


class Holding(nn.Module):
    """Tensors by name, nothing else."""

    def __init__(self, state: Mapping[str, Tensor]) -> None:
        super().__init__()
        for name, tensor in state.items():
            self.register_buffer(name, tensor)


class StatisticsTask:
    """The statistics of the samples of ``task``, at its site."""

    operations = OPERATIONS

    def __init__(self, task: object, layout: Layout) -> None:
        self.task, self.layout = task, layout

    def model(self) -> nn.Module:
        layout = self.layout
        num, levels = layout.num_features, len(layout.levels)
        floats: dict[str, tuple[int, ...]] = {
            **dict.fromkeys(("mean", "variance", "shift", "squares", "lowest", "highest"), (num,)),
            "range": (2, num),
            "brackets": (2, num, levels),
        }
        integers: dict[str, tuple[int, ...]] = {
            **dict.fromkeys(("count", "missing"), (num,)),
            **dict.fromkeys(("unlabelled", "samples", "sites", "rounds"), (1,)),
            "histogram": (num, layout.num_bins + 2),
            "refined": (num, levels, layout.num_bins + 2),
            "labels": (layout.num_classes,),
        }
        return Holding(
            {name: torch.zeros(shape, dtype=torch.float64) for name, shape in floats.items()}
            | {name: torch.zeros(shape, dtype=torch.int64) for name, shape in integers.items()}
            | {
                "levels": torch.tensor(layout.levels, dtype=torch.float64),
                "limits": torch.tensor([layout.min_samples, layout.suppress_below, layout.names]),
            }
        )

    def evaluate(self, model: nn.Module) -> Mapping[str, float]:
        return {}

    def sums(self, model: nn.Module, plan: Plan) -> Mapping[str, Any]:
        """This site's share. SitsOut if its samples are too few, or not of the features that are asked for."""
        state = model.state_dict()
        self.layout = Layout.of(state)
        columns = columns_of(self.task)
        self._check(columns)
        values, labels = _together(columns, self.layout.num_features)
        given: dict[str, Any] = {"samples": [columns.num_samples], "sites": [1], "num_samples": columns.num_samples}
        given |= self._labels(labels)
        arrays = {name: tensor.numpy() for name, tensor in state.items()}
        of_features = [self._of_feature(values[:, index], index, arrays) for index in range(values.shape[1])]
        return given | {name: np.stack([of[name] for of in of_features]) for name in of_features[0]}

    def _check(self, columns: Columns) -> None:
        layout = self.layout
        if columns.num_samples < max(1, layout.min_samples):
            raise SitsOut(
                f"it has {columns.num_samples} samples, and statistics are of sites with {layout.min_samples}"
            )
        if columns.num_features != layout.num_features:
            raise SitsOut(
                f"its samples have {columns.num_features} features; the statistics are of {layout.num_features}"
            )
        if layout.names and columns.names and digest_of(columns.names) != layout.names:
            listed = ", ".join(columns.names[:8])
            raise SitsOut(f"its features are {listed}{', …' if len(columns.names) > 8 else ''}: not the aggregator's")

    def _labels(self, labels: NDArray[np.int64] | None) -> dict[str, Any]:
        num = self.layout.num_classes
        if labels is None or not num:
            return {"unlabelled": [0 if labels is None else len(labels)]}
        if labels.max(initial=-1) >= num:
            raise SitsOut(f"its labels reach {labels.max()}; the statistics count those below {num} (--classes)")
        counts = np.bincount(labels[labels >= 0], minlength=num)
        return {"labels": self._withheld(counts), "unlabelled": [int((labels < 0).sum())]}

    def _of_feature(self, column: NDArray[np.float64], index: int, state: Mapping[str, NDArray[Any]]) -> dict[str, Any]:
        layout = self.layout
        values = column[np.isfinite(column)]
        centred = values - state["mean"][index]
        with np.errstate(over="ignore"):  # told by whoever finds that it is not finite
            squares = centred * centred
        nothing = np.zeros(layout.num_bins + 2, np.int64)
        num_rounds = int(state["rounds"][0])
        return {
            "count": np.int64(len(values)),
            "missing": np.int64(len(column) - len(values)),
            "shift": math.fsum(centred),
            "squares": math.fsum(squares) if np.isfinite(squares).all() else np.inf,
            **self._extremes(values),
            "histogram": self._withheld(self._bins_in(values, state["range"][:, index])) if num_rounds else nothing,
            "refined": np.array(
                [
                    self._withheld(self._bins_in(values, state["brackets"][:, index, level]))
                    if num_rounds > 1
                    else nothing
                    for level in range(len(layout.levels))
                ],
                np.int64,
            ).reshape(len(layout.levels), layout.num_bins + 2),
        }

    def _extremes(self, values: NDArray[np.float64]) -> dict[str, float]:
        """The lowest and highest value that at least ``suppress_below`` values reach."""
        rank = max(1, self.layout.suppress_below)
        if len(values) < rank:
            return {"lowest": np.inf, "highest": -np.inf}
        ordered = np.sort(values)
        return {"lowest": float(ordered[rank - 1]), "highest": float(ordered[-rank])}

    def _bins_in(self, values: NDArray[np.float64], bracket: NDArray[np.float64]) -> NDArray[np.int64]:
        return histogram(values, float(bracket[0]), float(bracket[1]), self.layout.num_bins)

    def _withheld(self, counts: NDArray[np.int64]) -> NDArray[np.int64]:
        return np.where(counts < self.layout.suppress_below, 0, counts)

    def apply(self, model: nn.Module, sums: Mapping[str, Tensor]) -> None:
        """The sums go into the model, with what follows from them."""
        state = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
        given = {name: total.numpy() for name, total in sums.items()}
        num_rounds = int(state["rounds"][0])
        count = np.maximum(given["count"], 1)
        shift = given["shift"] / count
        state["variance"][:] = np.maximum(0.0, given["squares"] / count - shift * shift)
        state["mean"][:] = state["mean"] + shift
        for name in ("lowest", "highest"):  # a feature that nobody has
            given[name] = np.where(np.isfinite(given[name]), given[name], 0.0)
        for name, total in given.items():
            state[name][...] = total
        if num_rounds == 0:
            state["range"][:] = np.stack([given["lowest"], given["highest"]])
        else:
            self._find_brackets(state, has_brackets=num_rounds > 1)
        state["rounds"] += 1

    def _find_brackets(self, state: Mapping[str, NDArray[Any]], *, has_brackets: bool) -> None:
        for index in range(self.layout.num_features):
            lowest, highest = float(state["lowest"][index]), float(state["highest"][index])
            for place, level in enumerate(self.layout.levels):
                bracket = state["brackets"][:, index, place] if has_brackets else state["range"][:, index]
                counts = state["refined"][index, place] if has_brackets else state["histogram"][index]
                rank = rank_of(level, int(state["count"][index]))
                found = bracket_of(counts, (float(bracket[0]), float(bracket[1])), lowest, highest, rank)
                state["brackets"][:, index, place] = found


def _together(columns: Columns, num_features: int) -> tuple[NDArray[np.float64], NDArray[np.int64] | None]:
    """All values of a site, and all labels."""
    batches = list(columns)
    labels = [labels for _, labels in batches if labels is not None]
    values = np.concatenate([values for values, _ in batches]) if batches else np.empty((0, num_features))
    return values, np.concatenate(labels) if labels else None
