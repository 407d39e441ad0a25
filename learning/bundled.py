"""The small real data sets that scikit-learn carries in its package (a first run downloads nothing), shared out.

Each is one labelled pool: a central test set, and a part with its own test set for each site.
"""

import functools
import importlib
import importlib.util

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from console import TaskError
from learning.partition import Indices, hold_out, part_of
from learning.split import Split
from learning.task import Site

TEST_ONE_IN = 5
CENTRAL_TEST_SEED = 0
"""Fixed, whatever the site's seed: figures of two runs are about the same test samples."""


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


def share_out(features: NDArray[np.float64], labels: NDArray[np.int64], site: Site) -> Split:
    """What lies at `site`, of `features` (samples, ...) and `labels` (samples,), as float32 and int64.

    A fifth of all samples, by label, is the central test set and lies at the aggregator. The rest is
    partitioned over the sites, and each site holds out a fifth of its own part.
    """
    pool, central_test = _shared_out_once(labels.tobytes())

    def tensors(indices: Indices) -> tuple[Tensor, Tensor]:
        return torch.from_numpy(features[indices].astype(np.float32)), torch.from_numpy(labels[indices])

    if site.is_aggregator:
        return Split(test=tensors(central_test))
    part = pool[part_of(labels[pool], site)]
    kept, held_out = hold_out(labels[part], one_in=TEST_ONE_IN, seed=site.seed)
    return Split(train=tensors(part[kept]), test=tensors(part[held_out]))


@functools.lru_cache(maxsize=2)
def _shared_out_once(labels: bytes) -> tuple[Indices, Indices]:
    """The sites' pool and the central test set; a process that has many of the sites asks for it with each."""
    return hold_out(np.frombuffer(labels, dtype=np.int64), one_in=TEST_ONE_IN, seed=CENTRAL_TEST_SEED)
