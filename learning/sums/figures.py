"""Statistics as people read them: from the last model of a statistics run to ``statistics.json``."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor


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


def _quantile(level: float, bracket: NDArray[np.float64]) -> dict[str, float]:
    """In the middle of the bin that it lies in, and at most ``within`` from there."""
    low, high = float(bracket[0]), float(bracket[1])
    return {"level": level, "value": low / 2 + high / 2, "within": (high - low) / 2}
