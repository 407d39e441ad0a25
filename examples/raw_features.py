"""Measures of cell nuclei as they were taken, scaled alike at all sites by the statistics of all.

    fl-statistics --task examples/raw_features.py:task --simulate 8 --partition dirichlet:0.1 --state measures
    fl-simulate --task examples/raw_features.py:task --workers 8 --partition dirichlet:0.1 \\
        --statistics measures/statistics.json

An area of 2,500 beside a smoothness of 0.1: as they are, nothing is learned. A site alone cannot tell by what to scale:
with skewed parts, each would scale otherwise. ``normalise=True`` scales by what all samples have together.
"""

from torch import nn
from torch.nn.functional import cross_entropy

from learning import Site, Split, Supervised
from learning.bundled import bundled, share_out

MEASURES = (
    "radius",
    "texture",
    "perimeter",
    "area",
    "smoothness",
    "compactness",
    "concavity",
    "points",
    "symmetry",
    "dimension",
)
KINDS = ("mean", "error", "worst")


def network() -> nn.Module:
    """530 parameters. Input (batch, 30), output (batch, 2)."""
    return nn.Sequential(nn.Linear(30, 16), nn.ReLU(), nn.Linear(16, 2))


def cells(site: Site) -> Split:
    """Raw measures, float32 of shape (samples, 30); labels 0 malignant, 1 benign."""
    return share_out(*bundled("breast_cancer"), site)


task = Supervised(
    model=network,
    data=cells,
    loss=cross_entropy,
    features=[f"{measure} ({kind})" for kind in KINDS for measure in MEASURES],
    normalise=True,
)
