"""The textbook task: FedAvg (McMahan et al. 2017) of a network 10-100-10 over sites with unlike data.

How to train comes from the aggregator: SGD at 0.01, batches of 10, ten local epochs.

fl-simulate --task examples/textbook.py:task --workers 5 --rounds 20 \
    --epochs 10 --batch-size 10 --lr 0.01 --momentum 0
fl-simulate --task examples/textbook.py:task --workers 5 --rounds 20 --partition shards:2 \
    --epochs 10 --batch-size 10 --lr 0.01 --momentum 0
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from learning import Site, Split, Supervised
from learning.partition import part_of

NUM_FEATURES = NUM_LABELS = 10


def network() -> nn.Module:
    return nn.Sequential(nn.Linear(NUM_FEATURES, 100), nn.ReLU(), nn.Linear(100, NUM_LABELS))


def clusters(num_samples: int, *, seed: int) -> tuple[Tensor, Tensor]:
    """Samples (num_samples, 10) of ten labels, each a cloud of three round clusters with fixed centres."""
    centres = 2 * torch.randn(NUM_LABELS, 3, NUM_FEATURES, generator=torch.Generator().manual_seed(0))
    random = torch.Generator().manual_seed(seed)
    labels = torch.randint(NUM_LABELS, (num_samples,), generator=random)
    centre = torch.randint(3, (num_samples,), generator=random)
    return centres[labels, centre] + torch.randn(num_samples, NUM_FEATURES, generator=random), labels


def data(site: Site) -> Split:
    """The aggregator tests on 1000 samples; a worker trains on its part of 2000 others."""
    if site.is_aggregator:
        return Split(test=clusters(1000, seed=1))
    samples, labels = clusters(2000, seed=2)
    part = part_of(labels.numpy(), site)
    return Split(train=(samples[part], labels[part]))


task = Supervised(model=network, data=data, loss=cross_entropy)
