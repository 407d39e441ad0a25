"""Which tensors of a model are shared, and so travel; all others stay where they are. Each model head has the patterns.

Patterns are shell patterns over tensor names: ``body.*``, ``*lora*``. A tensor is shared if it matches one of them,
and none that begins with ``!``. With only ``!`` patterns, all others are shared: ``!head.*`` is all but the head.
``trainable`` stands for the parameters that are trained (requires_grad), which leaves out all buffers.
"""

from collections.abc import Collection, Iterable, Sequence
from fnmatch import fnmatchcase

from torch import nn

from broker.states.tensors import State

ALL = ("*",)
_TRAINABLE = "trainable"
_NOT = "!"


def shared_state(model: nn.Module, patterns: Sequence[str]) -> State:
    """The tensors of a model that are shared. ValueError if a pattern matches none, or if none is shared."""
    state: State = dict(model.state_dict())
    trained = trained_names(model)
    for pattern in patterns:
        if not _matched(pattern, state, trained):
            raise ValueError(f"'{pattern}' matches no tensor of the model; it has {_listed(list(state))}")
    names = selected(state, patterns, trained=trained)
    shared = {name: tensor for name, tensor in state.items() if name in names}
    if not shared:
        raise ValueError(f"'{','.join(patterns)}' leaves no tensor of the model to share")
    return shared


def trained_names(model: nn.Module) -> set[str]:
    """The names of the parameters that are trained."""
    return {name for name, tensor in model.named_parameters(remove_duplicate=False) if tensor.requires_grad}


def selected(names: Iterable[str], patterns: Sequence[str], *, trained: Collection[str]) -> set[str]:
    """Those of the ``names`` that the patterns select; ``trained`` are what ``trainable`` stands for."""
    names = set(names)
    taken = [_matched(pattern, names, trained) for pattern in patterns if not pattern.startswith(_NOT)]
    left = [_matched(pattern, names, trained) for pattern in patterns if pattern.startswith(_NOT)]
    return (set().union(*taken) if taken else names) - set().union(*left)


def _matched(pattern: str, names: Iterable[str], trained: Collection[str]) -> set[str]:
    wanted = pattern.removeprefix(_NOT)
    if wanted == _TRAINABLE:
        return set(names) & set(trained)
    return {name for name in names if fnmatchcase(name, wanted)}


def _listed(names: list[str]) -> str:
    return ", ".join(names[:12]) + (f" and {len(names) - 12} more" if len(names) > 12 else "")
