"""BatchNorm and batches of one sample, which have no variance: what is done so that training goes on.

A last batch of one sample joins the batch before it, so no sample is lost (learning.batches). Where every
batch has one sample (a site with a single one, or a batch size of 1), the layers use the received statistics.
"""

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm


def has_batch_norm(model: nn.Module) -> bool:
    return any(isinstance(module, _BatchNorm) for module in model.modules())


def freeze_batch_norm(model: nn.Module) -> None:
    """BatchNorm layers use the received statistics, and keep them, until the next `model.train()`."""
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            module.eval()
