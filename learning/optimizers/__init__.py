"""What moves a model's parameters in local training, without the compiler that those of PyTorch import."""

from learning.optimizers.parameters import forget_gradients, parameters_of
from learning.optimizers.sgd import SGD, Optimizer

__all__ = ["SGD", "Optimizer", "forget_gradients", "parameters_of"]
