"""What ``--help`` prints: the settings of a command in the groups of docs/settings.md, the most important first."""

import shutil
import textwrap
from itertools import groupby

from pydantic_settings import BaseSettings

from console.flags.described import Setting, described, words

_MOST_COLUMNS = 110
_INDENT = 6


def help_page(settings: type[BaseSettings], *, prog: str, description: str, examples: str) -> str:
    """The page, as wide as the terminal. Each setting with its default, and the variable that sets it."""
    width = min(_MOST_COLUMNS, shutil.get_terminal_size((_MOST_COLUMNS, 24)).columns)
    positional = words(settings)
    usage = " ".join([f"usage: {prog}", *(word for word, _ in positional), "[--config FILE] [--flag VALUE]..."])
    parts = [usage, textwrap.fill(" ".join(description.split()), width)]
    parts += [_entry(word, text, width) for word, text in positional]
    for group, of_group in groupby(described(settings), key=lambda setting: setting.group):
        parts.append("\n".join([f"{group}:", *(_of_setting(setting, width) for setting in of_group)]))
    config = "YAML file with settings, one `name: value` a line; flags and the environment count more"
    parts.append("\n".join(["Help and file:", _entry("--config FILE", config, width), "  -h, --help"]))
    return "\n\n".join([*parts, f"examples:\n{examples}"]) + "\n"


def _of_setting(setting: Setting, width: int) -> str:
    default = f"default {setting.default}; " if setting.default else ""
    return _entry(_shown_flag(setting), f"{setting.description} ({default}{setting.variable})", width)


def _shown_flag(setting: Setting) -> str:
    if setting.kind == "yes or no":
        return f"{setting.flag}, --no-{setting.flag.removeprefix('--')}"
    kind = setting.kind.removesuffix(", none")
    if ", " in kind:
        return f"{setting.flag} {'|'.join(kind.split(', '))}"
    return f"{setting.flag} {kind.upper()}"


def _entry(head: str, text: str, width: int) -> str:
    indent = " " * _INDENT
    return f"  {head}\n" + textwrap.fill(text, width, initial_indent=indent, subsequent_indent=indent)
