"""``docs/settings.md``: every setting of every command. ``make settings-page`` writes it, and fl-init's templates."""

import sys
from itertools import groupby
from pathlib import Path

from console.flags import Setting, described
from scaffold.commands import COMMANDS
from scaffold.project_settings import TEMPLATES

_HEAD = """\
# Settings

Every setting can be given as a flag, as an environment variable, or in the YAML file that `--config` names, where it is
written like the flag without the two dashes. A flag counts more than the environment, that more than the file, and that
more than the default. `none` takes a value away. A setting nobody knows is an error, in the file, too.

A setting that several commands have means the same in all of them. This page is made from the models that check the
settings (`make settings-page`).
"""


def page() -> str:
    """The page as it should be."""
    return "\n".join([_HEAD, *(_section(command) for command in COMMANDS)])


def _section(command: str) -> str:
    parts = [f"## {command}", ""]
    for group, settings in groupby(described(COMMANDS[command]), key=lambda setting: setting.group):
        parts += [f"### {group} {{ #{command}-{group.lower().replace(' ', '-')} }}", ""]
        parts += ["| flag, variable | default | what it is |", "| --- | --- | --- |", *map(_row, settings), ""]
    return "\n".join(parts)


def _row(setting: Setting) -> str:
    text = f"{setting.description} ({setting.kind})".replace("|", "\\|").replace("*", "\\*")
    return f"| `{setting.flag}`<br>`{setting.variable}` | `{setting.default}` | {text} |"


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(page(), encoding="utf-8")
    for file, text in TEMPLATES.items():
        Path(__file__).with_name("project").joinpath(file).write_text(text(), encoding="utf-8")
