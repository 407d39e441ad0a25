"""Settings without effect where nothing is trained: a run that began with them needs them again to be measured."""

from collections.abc import Mapping
from typing import Any

from aggregator.plans import SCHEDULED, schedule_of

_WITHOUT: Mapping[str, Any] = {
    "correction": "none",
    "robust": "none",
    "server_optimizer": "fedavg",
    "server_lr": 1.0,
    "weighting": "samples",
    "clip_norm": None,
    "sample": None,
    **{schedule_of(name): None for name in SCHEDULED},
}
"""What a run has that is not told of them."""
_FOLLOWS = {"server_lr": ("server_optimizer",), "weighting": ("correction", "robust")}
"""Where one of these is given, the setting is what goes with it."""


def idle_in_evaluation(recorded: Mapping[str, Any]) -> list[str]:
    """The flags, with their values, that say something of training alone; ``recorded`` are the settings of the run."""
    given = {name: recorded[name] for name, without in _WITHOUT.items() if recorded.get(name, without) != without}
    named = [name for name in given if not any(other in given for other in _FOLLOWS.get(name, ()))]
    return [f"--{name.replace('_', '-')} {given[name]}" for name in named]
