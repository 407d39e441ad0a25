"""The settings in the files of a new project, each one explained: templates for ``fl-init``, which then need no models.

``make settings-page`` writes them, out of the models that check the settings.
"""

import re
import textwrap
from collections.abc import Callable, Mapping, Sequence
from itertools import groupby

from aggregator import AggregatorSettings, RunSettings
from console.flags import OWN, Setting, described
from simulation import SimulationSettings
from worker import WorkerSettings

_NAME = "{{ name }}"
_TASK = "task.py:task"
_GIVEN = {"task": _TASK, "rounds": "10"}
"""The settings that the files set; all others are in them as comments, with their defaults."""


def worker_settings() -> str:
    """Of worker.yaml: all settings of a worker."""
    return _commented(described(WorkerSettings), {"task": _TASK})


def run_settings() -> str:
    """Of run.yaml: the settings that aggregator and simulation share, then a section for each with its own."""
    both = [set(described(settings)) for settings in (AggregatorSettings, SimulationSettings)]
    shared = {setting.name for setting in both[0] & both[1]} & RunSettings.model_fields.keys()
    parts = [_commented([setting for setting in described(AggregatorSettings) if setting.name in shared], _GIVEN)]
    for section, settings, given in (
        ("aggregator", AggregatorSettings, {"run": _NAME, "quorum": "2"}),
        ("simulate", SimulationSettings, {"run": _NAME, "workers": "4"}),
    ):
        own = [setting for setting in described(settings) if setting.name not in shared]
        parts.append(f"# === only fl-{section} reads this ===\n{section}:\n{_commented(own, given, indent='  ')}")
    return "\n".join(parts)


def _commented(settings: Sequence[Setting], given: dict[str, str], *, indent: str = "") -> str:
    lines = []
    for group, own in groupby(settings, key=lambda setting: setting.group):
        if group != OWN:
            lines += [f"{indent}# -- {group.lower()} --", ""]
        for setting in own:
            text = f"{setting.description} ({setting.kind})"
            lines += textwrap.wrap(text, 110, initial_indent=f"{indent}# ", subsequent_indent=f"{indent}#   ")
            value = given.get(setting.name)
            mark, shown = ("", value) if value else ("#", _yaml(setting.default))
            lines.append(f"{indent}{mark}{setting.name}: {shown}")
            lines.append("")
    return "\n".join(lines)


def _yaml(value: str) -> str:
    """The value, quoted where YAML would take it for something else."""
    return f'"{value}"' if re.search(r"[*!%:#]|^$", value) else value


TEMPLATES: Mapping[str, Callable[[], str]] = {
    "run_settings.yaml.j2": run_settings,
    "worker_settings.yaml.j2": worker_settings,
}
"""File in ``scaffold/project`` -> its text."""
