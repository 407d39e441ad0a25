"""Local training, read from top to bottom: mini-batch SGD on one site's samples.

A last batch of one sample has no variance for BatchNorm: it joins the batch before it, so no sample is lost. Where
every batch has one sample (a site with a single one, or a batch size of 1), the layers use the received statistics.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from learning.batches import Batches
from learning.optimizers import SGD, Optimizer
from learning.split import Samples, count, take
from learning.task import Plan

Loss = Callable[[Tensor, Tensor], Tensor]
"""loss(outputs, targets): the mean over the samples of a batch, a scalar."""

MakeOptimizer = Callable[[list[nn.Parameter], Plan], Optimizer]


def sgd(parameters: list[nn.Parameter], plan: Plan) -> SGD:
    """SGD with the plan's learning rate and momentum. The momentum starts at zero in every round."""
    return SGD(parameters, lr=plan.lr, momentum=plan.momentum)


def train(
    model: nn.Module, samples: Samples, plan: Plan, *, loss: Loss, make_optimizer: MakeOptimizer = sgd
) -> dict[str, float]:
    """Trains `model` in place, on `plan.device`, on at least one sample.

    Returns `num_samples`, the size of the site's training set, and `loss`, the mean over all samples as they
    were met and without the proximal term (absent when cancelled before the first batch); and the plan's figures, but
    for `update_norm1` with an optimizer other than `sgd`, and those that are not of the training. The same state,
    samples and plan give the same bits on the same machine with the same number of torch threads.
    """
    model.to(plan.device).train()
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    received = [parameter.detach().clone() for parameter in parameters] if plan.mu else []
    optimizer = make_optimizer(parameters, plan)
    call = plan.parallel(model)
    batches = Batches(num_samples=count(samples), plan=plan, join_single=_has_batch_norm(model))
    if max(batches.sizes) == 1:
        _freeze_batch_norm(model)

    num_met, num_steps, loss_sum = 0, 0, torch.zeros((), device=plan.device)
    for step, indices in enumerate(batches, start=1):
        if plan.cancelled():
            break
        inputs, targets = (tensor.to(plan.device) for tensor in take(samples, indices))
        batch_loss = loss(call(inputs), targets)
        num_met += len(indices)
        loss_sum += len(indices) * batch_loss.detach()  # a tensor: a float would wait for the GPU at every step

        if plan.mu:
            batch_loss = batch_loss + plan.mu / 2 * squared_distance(parameters, received)
        optimizer.zero_grad()
        batch_loss.backward()  # type: ignore[no-untyped-call]
        plan.correct(parameters)
        optimizer.step()
        num_steps = step
        plan.progress(step / len(batches))

    metrics = {"num_samples": float(count(samples))} | _figures(plan, num_steps, make_optimizer)
    return metrics | ({"loss": loss_sum.item() / num_met} if num_met else {})


def _figures(plan: Plan, num_steps: int, make_optimizer: MakeOptimizer) -> dict[str, float]:
    """What the plan asks for of it: `num_steps`, and `update_norm1` where the optimizer is plain SGD."""
    figures = {"num_steps": float(num_steps)}
    if make_optimizer is sgd:
        figures["update_norm1"] = plan.update_norm1(num_steps)
    return {name: figure for name, figure in figures.items() if name in plan.figures}


def squared_distance(parameters: list[nn.Parameter], received: list[Tensor]) -> Tensor:
    """||w - w_received||^2, a scalar (FedProx: Li et al. 2020, arXiv:1812.06127, equation 2)."""
    return torch.stack([(w - w0).square().sum() for w, w0 in zip(parameters, received, strict=True)]).sum()


def _has_batch_norm(model: nn.Module) -> bool:
    return any(isinstance(module, _BatchNorm) for module in model.modules())


def _freeze_batch_norm(model: nn.Module) -> None:
    """BatchNorm layers use the received statistics, and keep them, until the next `model.train()`."""
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            module.eval()
