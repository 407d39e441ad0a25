"""How good a model is on held-out samples."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from learning.optimizers import parameters_of
from learning.split import Samples, count, take
from learning.training import Loss

BATCH_SIZE = 512


def evaluate(model: nn.Module, samples: Samples, *, loss: Loss, accuracy: bool = True) -> dict[str, float]:
    """`num_samples`, `loss` and `accuracy`, the last two as means over at least one sample.

    `accuracy` is there when asked for, if outputs are class scores along dimension 1 and targets integers.
    Runs on the device that the model is on, and leaves the model as it was.
    """
    device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    num_samples = count(samples)
    loss_sum, num_correct, num_classified = 0.0, 0, 0
    with evaluating(model), torch.no_grad():
        for indices in torch.split(torch.arange(num_samples), BATCH_SIZE):
            inputs, targets = (tensor.to(device) for tensor in take(samples, indices))
            outputs = model(inputs)
            loss_sum += len(indices) * loss(outputs, targets).item()
            if accuracy and are_class_scores(outputs, targets):
                num_correct += int((outputs.argmax(dim=1) == targets).sum())
                num_classified += targets.numel()
    metrics = {"num_samples": float(num_samples), "loss": loss_sum / num_samples}
    return metrics | ({"accuracy": num_correct / num_classified} if num_classified else {})


def are_class_scores(outputs: Tensor, targets: Tensor) -> bool:
    """Outputs (batch, classes, ...) for integer targets (batch, ...)."""
    are_integers = not (targets.is_floating_point() or targets.is_complex())
    return are_integers and outputs.ndim > 1 and outputs.shape[:1] + outputs.shape[2:] == targets.shape


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Eval mode within; modes, gradients, and what is trained, as they were afterwards, whatever was done to them."""
    was_training = [(module, module.training) for module in model.modules()]
    parameters = parameters_of(model)
    were_trained = [parameter.requires_grad for parameter in parameters]
    gradients = [parameter.grad for parameter in parameters]
    had_gradients = torch.is_grad_enabled()
    model.eval()
    try:
        yield
    finally:
        torch.set_grad_enabled(had_gradients)
        for module, training in was_training:
            module.training = training
        for parameter, is_trained, gradient in zip(parameters, were_trained, gradients, strict=True):
            if parameter.requires_grad != is_trained:
                parameter.requires_grad_(is_trained)
            if parameter.grad is not gradient:
                parameter.grad = gradient
