"""The built-in task `digits`: handwritten digits of 8x8 pixels (UCI, from scikit-learn), and a small CNN.

1797 samples of 10 labels, of which 359 are the central test set; see learning.bundled for who holds what.
"""

import functools

import numpy as np
from numpy.typing import NDArray
from torch import nn
from torch.nn.functional import cross_entropy

from learning.bundled import bundled, share_out
from learning.split import Split
from learning.supervised import Supervised
from learning.task import Site

# Pixels go from 0 to 16. These two are constants of the task, not statistics of a site's data.
TYPICAL_PIXEL = 5
PIXEL_SPREAD = 6


def cnn() -> nn.Module:
    """9,930 parameters, no BatchNorm, no dropout. Input (batch, 1, 8, 8), output (batch, 10)."""
    return nn.Sequential(
        nn.Conv2d(1, 16, kernel_size=3, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 32, kernel_size=3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(32 * 4 * 4, 10),
    )


def digits(site: Site) -> Split:
    """Images, float32 of shape (samples, 1, 8, 8) and about standard, with labels 0..9."""
    return share_out(*_images(), site)


@functools.cache
def _images() -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Those of all sites, scaled once in a process."""
    pixels, labels = bundled("digits")
    return (pixels.reshape(-1, 1, 8, 8) - TYPICAL_PIXEL) / PIXEL_SPREAD, labels


task = Supervised(model=cnn, data=digits, loss=cross_entropy)
