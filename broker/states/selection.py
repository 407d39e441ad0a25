"""Which tensors of a model are shared, and so travel; all others stay where they are. Each model head has the patterns.

Patterns are shell patterns over tensor names: ``body.*``, ``*lora*``. A tensor is shared if it matches one of them,
and none that begins with ``!``. With only ``!`` patterns, all others are shared: ``!head.*`` is all but the head.
``trainable`` stands for the parameters that are trained (requires_grad), which leaves out all buffers.
"""

from collections.abc import Sequence
from fnmatch import fnmatchcase

from torch import nn

from broker.states.tensors import State

ALL = ("*",)
_TRAINABLE = "trainable"
_NOT = "!"


def shared_state(model: nn.Module, patterns: Sequence[str]) -> State:
    """The tensors of a model that are shared. ValueError if a pattern matches none, or if none is shared."""
    state: State = dict(model.state_dict())
    trained = {name for name, tensor in model.named_parameters(remove_duplicate=False) if tensor.requires_grad}

    def matched(pattern: str) -> set[str]:
        wanted = pattern.removeprefix(_NOT)
        names = trained if wanted == _TRAINABLE else {name for name in state if fnmatchcase(name, wanted)}
        if not names & state.keys():
            raise ValueError(f"'{pattern}' matches no tensor of the model; it has {_listed(list(state))}")
        return names

    taken = [matched(pattern) for pattern in patterns if not pattern.startswith(_NOT)]
    left = [matched(pattern) for pattern in patterns if pattern.startswith(_NOT)]
    names = (set().union(*taken) if taken else state.keys()) - set().union(*left)
    shared = {name: tensor for name, tensor in state.items() if name in names}
    if not shared:
        raise ValueError(f"'{','.join(patterns)}' leaves no tensor of the model to share")
    return shared


def _listed(names: list[str]) -> str:
    return ", ".join(names[:12]) + (f" and {len(names) - 12} more" if len(names) > 12 else "")
