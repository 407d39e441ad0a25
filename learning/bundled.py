"""The small real data sets that scikit-learn carries in its package: a first run downloads nothing."""

import functools
import importlib
import importlib.util

import numpy as np
from numpy.typing import NDArray

from console import TaskError


def require_scikit_learn() -> None:
    """Raises TaskError when scikit-learn is not installed; imports nothing."""
    if importlib.util.find_spec("sklearn") is None:
        raise TaskError("the built-in tasks need scikit-learn; run: pip install 'fedmq[demo]'")


@functools.cache
def bundled(name: str) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Features, float64 of shape (samples, features), and labels, int64 of shape (samples,).

    Read once in a process and shared by its sites, hence read-only.
    """
    require_scikit_learn()
    load = getattr(importlib.import_module("sklearn.datasets"), f"load_{name}")
    features, labels = load(return_X_y=True)
    arrays = np.asarray(features, dtype=np.float64), np.asarray(labels, dtype=np.int64)
    for array in arrays:
        array.setflags(write=False)
    return arrays
