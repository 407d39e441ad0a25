"""The built-in task `breast-cancer`: benign or malignant from 30 measures of cell nuclei, as at hospitals.

569 samples (UCI Wisconsin diagnostic, bundled with scikit-learn), of which a fifth is the central test set;
see learning.bundled for who holds what.

The measures differ by orders of magnitude and must be scaled alike at all sites. Here that takes no exchange.
The data set's published description states the range of each measure; those 60 numbers are written down
below, as sites would agree on units before they start. No site tells another anything about its samples, and
a site with three patients scales as well as one with three hundred.
"""

import numpy as np
from torch import nn
from torch.nn.functional import cross_entropy

from learning.bundled import bundled, share_out
from learning.split import Split
from learning.supervised import Supervised
from learning.task import Site

# Radius, texture, perimeter, area, smoothness, compactness, concavity, concave points, symmetry and fractal
# dimension: first their means, then their standard errors, then their worst values.
LOWEST = (
    (6.981, 9.71, 43.79, 143.5, 0.053, 0.019, 0.0, 0.0, 0.106, 0.05),
    (0.112, 0.36, 0.757, 6.802, 0.002, 0.002, 0.0, 0.0, 0.008, 0.001),
    (7.93, 12.02, 50.41, 185.2, 0.071, 0.027, 0.0, 0.0, 0.156, 0.055),
)
HIGHEST = (
    (28.11, 39.28, 188.5, 2501.0, 0.163, 0.345, 0.427, 0.201, 0.304, 0.097),
    (2.873, 4.885, 21.98, 542.2, 0.031, 0.135, 0.396, 0.053, 0.079, 0.03),
    (36.04, 49.54, 251.2, 4254.0, 0.223, 1.058, 1.252, 0.291, 0.664, 0.208),
)
# The measures are skewed: most samples lie about a quarter up the range, give or take an eighth.
TYPICAL_PLACE = 0.25
TYPICAL_SPREAD = 0.125


def network() -> nn.Module:
    """530 parameters. Input (batch, 30), output (batch, 2)."""
    return nn.Sequential(nn.Linear(30, 16), nn.ReLU(), nn.Linear(16, 2))


def breast_cancer(site: Site) -> Split:
    """Measures, float32 of shape (samples, 30), about standard; labels 0 malignant, 1 benign."""
    measures, labels = bundled("breast_cancer")
    lowest, highest = np.ravel(LOWEST), np.ravel(HIGHEST)
    place_in_range = (measures - lowest) / (highest - lowest)
    return share_out((place_in_range - TYPICAL_PLACE) / TYPICAL_SPREAD, labels, site)


task = Supervised(model=network, data=breast_cancer, loss=cross_entropy)
