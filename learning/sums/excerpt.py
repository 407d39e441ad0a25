"""Statistics as page and report show them: plain values of bounded size, however many features and labels there are."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from learning.sums.figures import condensed, levels_of

_MOST_FEATURES = 200
_MOST_LABELS = 200
_MOST_BARS = 32
_LONGEST_NAME = 80


def excerpt_of(figures: Mapping[str, Any]) -> dict[str, Any]:
    """The first features and labels of ``statistics.json``, how many more, and the digest of what it tells."""
    features, labels = figures["features"], figures["labels"]
    return {
        **{name: figures[name] for name in ("num_sites", "num_samples", "unlabelled", "min_samples", "suppress_below")},
        "sha256": digest_of_told(condensed(figures)),
        "levels": levels_of(figures),
        "features": [_feature(feature) for feature in features[:_MOST_FEATURES]],
        "num_more_features": max(0, len(features) - _MOST_FEATURES),
        "labels": labels[:_MOST_LABELS],
        "num_labelled": sum(labels),
        "num_more_labels": max(0, len(labels) - _MOST_LABELS),
    }


def digest_of_told(told: Mapping[str, Sequence[float]]) -> str:
    """SHA-256 of what tasks are told; the same from statistics.json, a ledger and the head of a model."""
    numbers = {name: [float(value) for value in values] for name, values in told.items()}
    return hashlib.sha256(json.dumps(numbers, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _feature(feature: Mapping[str, Any]) -> dict[str, Any]:
    name = str(feature["name"])
    return {
        "name": name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME - 1]}…",
        **{key: feature[key] for key in ("count", "missing", "mean", "std", "min", "max")},
        "quantiles": [quantile["value"] for quantile in feature["quantiles"]],
        "histogram": None if feature["histogram"] is None else _with_fewer_bins(feature["histogram"]),
    }


def _with_fewer_bins(histogram: Mapping[str, Any]) -> dict[str, Any]:
    """The same with at most 32 bars of ``bins_a_bar`` bins each; the last may have fewer."""
    counts = histogram["counts"]
    size = -(-len(counts) // _MOST_BARS)
    bars = [sum(counts[start : start + size]) for start in range(0, len(counts), size)]
    return {**histogram, "counts": bars, "num_bins": len(counts), "bins_a_bar": size}
