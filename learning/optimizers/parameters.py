"""All parameters of a model at once: `model.parameters()` hashes each, and `model.zero_grad()` asks for them anew."""

from torch import nn


def parameters_of(model: nn.Module) -> list[nn.Parameter]:
    """The parameters of all parts of a model; one that is tied comes under each of its names."""
    return [parameter for part in model.modules() for parameter in part._parameters.values() if parameter is not None]


def forget_gradients(model: nn.Module) -> None:
    """Leaves no parameter with a gradient."""
    for parameter in parameters_of(model):
        if parameter.grad is not None:
            parameter.grad = None
