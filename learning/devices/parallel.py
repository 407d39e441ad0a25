"""``plan.parallel``: what calls a model on all devices of a worker."""

from collections.abc import Callable, Sequence
from typing import Any

from torch import nn

from learning.devices.replicas import Replicas

Call = Callable[..., Any]


def alone(model: nn.Module) -> Call:
    """On its own device."""
    return model


class Parallel:
    """For one training on several devices, the first of which has the model."""

    def __init__(self, devices: Sequence[str]) -> None:
        self._devices = devices
        self._was_called = False

    def __call__(self, model: nn.Module) -> Call:
        self._was_called = True
        return Replicas(model, self._devices)

    @property
    def complaint(self) -> str | None:
        """What a training did not do, in words; None if it asked for the devices."""
        if self._was_called:
            return None
        return (
            f"the task's train() never called plan.parallel(), and --device names {', '.join(self._devices)}: before"
            " the first batch, net = plan.parallel(model), and then net(inputs) in place of model(inputs); or give one"
            " device"
        )
