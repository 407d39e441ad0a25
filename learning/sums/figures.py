"""Statistics as people read them: from the last model of a statistics run to ``statistics.json``."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from console import SettingsError

MAX_TOLD_BYTES = 64 * 1024
_BYTES_OF_A_NUMBER = 9
"""As msgpack has a float64."""


def figures_of(state: Mapping[str, Tensor], names: Sequence[str] = ()) -> dict[str, Any]:
    """What a model of a ``StatisticsTask`` says, as JSON has it; None where a feature has no values.

    ``std`` is that of all values (divided by n), ``sample_std`` the estimate from a sample (by n - 1).
    """
    arrays = {name: tensor.numpy() for name, tensor in state.items()}
    num_features = len(arrays["count"])
    return {
        "num_sites": int(arrays["sites"][0]),
        "num_samples": int(arrays["samples"][0]),
        "features": [_feature(arrays, index, names[index] if names else f"{index}") for index in range(num_features)],
        "labels": arrays["labels"].tolist(),
        "unlabelled": int(arrays["unlabelled"][0]),
        "min_samples": int(arrays["limits"][0]),
        "suppress_below": int(arrays["limits"][1]),
    }


def _feature(arrays: Mapping[str, NDArray[Any]], index: int, name: str) -> dict[str, Any]:
    num, variance = int(arrays["count"][index]), float(arrays["variance"][index])
    found = {"name": name, "count": num, "missing": int(arrays["missing"][index])}
    if not num:
        return found | dict.fromkeys(("mean", "std", "sample_std", "min", "max", "histogram"), None) | {"quantiles": []}
    low, high = (float(value) for value in arrays["range"][:, index])
    counts = arrays["histogram"][index]
    return found | {
        "mean": float(arrays["mean"][index]),
        "std": math.sqrt(variance),
        "sample_std": math.sqrt(variance * (num / (num - 1))) if num > 1 else None,
        "min": float(arrays["lowest"][index]),
        "max": float(arrays["highest"][index]),
        "histogram": {
            "low": low,
            "high": high,
            "counts": counts[1:-1].tolist(),
            "below": int(counts[0]),
            "above": int(counts[-1]),
        },
        "quantiles": [
            _quantile(float(level), arrays["brackets"][:, index, place]) for place, level in enumerate(arrays["levels"])
        ],
    }


def levels_of(figures: Mapping[str, Any]) -> list[float]:
    """The levels of the quantiles; empty if no feature has values."""
    found: list[dict[str, float]] = max((feature["quantiles"] for feature in figures["features"]), key=len, default=[])
    return [quantile["level"] for quantile in found]


def condensed(figures: Mapping[str, Any]) -> dict[str, tuple[float, ...]]:
    """What tasks are told: a number for each feature by name, and the counts of labels. 0 where there are no values."""
    features = figures["features"]
    told = {name: tuple(float(each[name] or 0) for each in features) for name in ("count", "mean", "std", "min", "max")}
    for place, level in enumerate(levels_of(figures)):
        told[f"q{level:g}"] = tuple(
            float(each["quantiles"][place]["value"]) if each["quantiles"] else 0.0 for each in features
        )
    return told | ({"labels": tuple(map(float, figures["labels"]))} if figures["labels"] else {})


def read_condensed(path: Path) -> dict[str, tuple[float, ...]]:
    """The same from a file. A SettingsError if it is none of fl-statistics, or too large for the head of a model."""
    try:
        told = condensed(json.loads(path.read_text(encoding="utf-8")))
        if not all(math.isfinite(value) for values in told.values() for value in values) or not told["mean"]:
            raise ValueError("a value is not finite")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise SettingsError(
            f"--statistics {path}: not a statistics.json of fl-statistics ({type(error).__name__})"
        ) from error
    num_bytes = _BYTES_OF_A_NUMBER * sum(map(len, told.values()))
    if num_bytes > MAX_TOLD_BYTES:
        raise SettingsError(
            f"--statistics {path}: of {len(told['mean'])} features they take {num_bytes // 1024} KiB with each model;"
            f" at most {MAX_TOLD_BYTES // 1024} KiB travel: take them of fewer, or without --quantiles"
        )
    return told


def _quantile(level: float, bracket: NDArray[np.float64]) -> dict[str, float]:
    """In the middle of the bin that it lies in, and at most ``within`` from there."""
    low, high = float(bracket[0]), float(bracket[1])
    return {"level": level, "value": low / 2 + high / 2, "within": (high - low) / 2}
