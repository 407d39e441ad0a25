"""A model of each simulated worker's own, as in a process of its own, in the memory of one.

What a task keeps on its module (flags, hooks, hidden state, a reference of its own) stays with that worker. The values
of the state come anew with each model that a worker receives, and workers take turns: so the tensors of all lie in the
same storage. What may not be overwritten, since something else refers to it or loading leaves it out, keeps its own.
"""

import copy
from collections import Counter
from collections.abc import Iterator, Mapping

import torch
from torch import nn

from broker.modules import ModelTensors
from console import TaskError
from learning import Task
from worker import new_model

_LOADING = ("load_state_dict", "_load_from_state_dict", "state_dict")


class OwnModels:
    """Makes the models of several workers. No two have a module or a tensor in common."""

    def __init__(self) -> None:
        self._taken: dict[int, tuple[object, str]] = {}
        """Each module and tensor with its worker, by its id; here they live on, so no id is used twice."""
        self._memory: dict[str, torch.Tensor] = {}
        """The tensors in whose storage others may lie, by name."""

    def of(self, name: str, task: Task) -> nn.Module:
        """The model of the worker ``name``: a new one of the task's, or a copy if the task gave one that is taken.

        TaskError if that cannot be copied.
        """
        module = new_model(task)
        owners = (self._taken[id(part)][1] for part in _parts(module) if id(part) in self._taken)
        if owner := next(owners, None):
            module = _copied(module, name, owner)
        self._taken |= {id(part): (part, name) for part in _parts(module)}
        replaceable = _replaceable(module)
        if not self._memory:
            self._memory = replaceable
        elif _layout(replaceable) == _layout(self._memory):
            for tensor, other in zip(replaceable.values(), self._memory.values(), strict=True):
                tensor.data = other.data
        return module


def _parts(module: nn.Module) -> Iterator[object]:
    yield from module.modules()
    yield from module.parameters()
    yield from module.buffers()


def _copied(module: nn.Module, name: str, owner: str) -> nn.Module:
    try:
        return copy.deepcopy(module)
    except Exception as error:  # a module may hold anything, and much of it cannot be copied
        raise TaskError(
            f"the task's model() gave {name} what {owner} trains, and it cannot be copied ({error});"
            " make a new model in each call"
        ) from error


def _replaceable(module: nn.Module) -> dict[str, torch.Tensor]:
    """The tensors whose every value is replaced when a state is loaded, and in whose storage nothing else lies."""
    if any(_loads_in_its_own_way(part) for part in module.modules()):
        return {}
    known = ModelTensors.of(module)
    travelling = {spec.name for spec in known.specs} | known.others.keys()
    tensors = {name: entry for name, entry in module.state_dict(keep_vars=True).items() if name in travelling}
    distinct = {id(tensor): tensor for tensor in tensors.values()}.values()
    num_known = Counter(tensor.untyped_storage().data_ptr() for tensor in distinct)
    return {
        name: tensor
        for name, tensor in tensors.items()
        if _num_tensors_in(tensor.untyped_storage()) == num_known[tensor.untyped_storage().data_ptr()]
    }


def _loads_in_its_own_way(part: nn.Module) -> bool:
    is_torch = (getattr(type(part), method).__module__.startswith("torch.") for method in _LOADING)
    return bool(part._load_state_dict_pre_hooks) or not all(is_torch)


def _num_tensors_in(storage: torch.UntypedStorage) -> int:
    count: int = torch._C._storage_Use_Count(storage._cdata)  # no public way tells of views that others keep
    return count - 1  # ``storage`` itself


def _layout(tensors: Mapping[str, torch.Tensor]) -> list[tuple[object, ...]]:
    """What has to be the same for one to lie in the storage of the other, which tensors lie in one storage included."""
    storages: dict[int, int] = {}
    return [
        (
            name,
            tensor.dtype,
            tensor.device,
            tensor.shape,
            tensor.stride(),
            tensor.storage_offset(),
            storages.setdefault(tensor.untyped_storage().data_ptr(), len(storages)),
        )
        for name, tensor in tensors.items()
    ]
