"""A model that several devices call together: each has a copy of it, and takes its part of the batch.

As with ``torch.nn.DataParallel``, outputs are those of the whole batch, on the first device, and gradients are those of
the model; of what a call changes in buffers, such as BatchNorm's statistics, the first device's part counts. Unlike
there, the gradients of the devices are added up in the order of the devices, whichever is ready first, so that the same
devices give the same bits; and no part has a single sample, of which BatchNorm knows no variance.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.func import functional_call

_FEWEST = 2
"""Samples of a part."""


class Replicas:
    """Calls ``model``, which is on the first of ``devices``, on all of them. They are given work one after the other,
    and GPUs do it side by side."""

    def __init__(self, model: nn.Module, devices: Sequence[str]) -> None:
        self._model = model
        self._devices = [torch.device(device) for device in devices]

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        size = next(_sizes((args, kwargs)), 0)
        num_parts = max(1, min(len(self._devices), size // _FEWEST))
        if num_parts == 1:
            return self._model(*args, **kwargs)
        devices = self._devices[:num_parts]
        parts = [_part((args, kwargs), index, devices, size) for index in range(num_parts)]
        states = self._states(devices)
        outputs = []
        for device, state, (own_args, own_kwargs) in zip(devices, states, parts, strict=True):
            with _current(device):
                outputs.append(functional_call(self._model, state, own_args, own_kwargs))
        return _joined(outputs, devices[0])

    def _states(self, devices: Sequence[torch.device]) -> Iterator[dict[str, Tensor]]:
        """The tensors of each device's copy by name. The first one's, but for those that are trained, are the model's
        own."""
        trained = {name: tensor for name, tensor in self._model.named_parameters() if tensor.requires_grad}
        others = [*self._model.named_parameters(), *self._model.named_buffers()]
        copies = iter(_Copies.apply(devices, *trained.values()) if trained else ())  # type: ignore[no-untyped-call]
        for index, device in enumerate(devices):
            fixed = {name: tensor.detach() for name, tensor in others if index and name not in trained}
            moved = {name: tensor.to(device, copy=True) for name, tensor in fixed.items()}
            yield moved | {name: next(copies) for name in trained}


class _Copies(torch.autograd.Function):
    """Parameters on each device, device by device. Their gradients are added up in that order."""

    @staticmethod
    def forward(ctx: Any, devices: Sequence[torch.device], *parameters: Tensor) -> tuple[Tensor, ...]:
        ctx.homes = [parameter.device for parameter in parameters]
        ctx.set_materialize_grads(False)
        first = [parameter.detach() for parameter in parameters]
        others = [parameter.to(device, copy=True) for device in devices[1:] for parameter in parameters]
        return (*first, *others)

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator, unused-ignore]
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        num = len(ctx.homes)
        sums = (_sum(gradients[place::num], home) for place, home in enumerate(ctx.homes))
        return (None, *sums)


def _sum(gradients: Sequence[Tensor | None], device: torch.device) -> Tensor | None:
    total: Tensor | None = None
    for gradient in gradients:
        if gradient is not None:
            total = gradient.to(device) if total is None else total + gradient.to(device)
    return total


def _current(device: torch.device) -> AbstractContextManager[Any]:
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


def _sizes(value: Any) -> Iterator[int]:
    """The lengths of the tensors in nested inputs."""
    if isinstance(value, Tensor):
        yield from value.shape[:1]
    elif isinstance(value, Mapping):
        yield from (size for each in value.values() for size in _sizes(each))
    elif isinstance(value, (tuple, list)):
        yield from (size for each in value for size in _sizes(each))


def _part(value: Any, index: int, devices: Sequence[torch.device], size: int) -> Any:
    """One device's part of nested inputs; a tensor that has not one entry for each sample goes to all of them."""
    if isinstance(value, Tensor):
        is_split = value.ndim > 0 and len(value) == size
        return (value.tensor_split(len(devices))[index] if is_split else value).to(devices[index], non_blocking=True)
    if isinstance(value, Mapping):
        return _like(value, {key: _part(each, index, devices, size) for key, each in value.items()})
    if isinstance(value, (tuple, list)):
        return _like(value, [_part(each, index, devices, size) for each in value])
    return value


def _joined(outputs: Sequence[Any], device: torch.device) -> Any:
    """The outputs of all parts as those of one batch; numbers become a vector with one for each part."""
    first = outputs[0]
    if isinstance(first, Tensor):
        moved = [output.to(device) for output in outputs]
        return torch.cat(moved) if first.ndim else torch.stack(moved)
    if isinstance(first, Mapping):
        return _like(first, {key: _joined([output[key] for output in outputs], device) for key in first})
    if isinstance(first, (tuple, list)):
        return _like(first, [_joined(each, device) for each in zip(*outputs, strict=True)])
    return first


def _like(kind: Any, values: Any) -> Any:
    """``values`` as ``kind`` has them: also a named tuple, or a mapping of a class of its own."""
    return type(kind)(*values) if hasattr(kind, "_fields") else type(kind)(values)
