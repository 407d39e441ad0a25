"""What a live view looks like: its lines at a width, as text."""

import io

from rich.console import Console, RenderableType


def lines_of(view: RenderableType, *, width: int = 80) -> list[str]:
    """The lines without colours and without what is blank at their ends; the output may be no wider than ``width``."""
    console = Console(file=io.StringIO(), width=width, height=200, color_system=None, legacy_windows=False)
    console.print(view)
    assert isinstance(console.file, io.StringIO)
    lines = console.file.getvalue().splitlines()
    assert all(len(line) <= width for line in lines)
    return [line.rstrip() for line in lines]


def text_of(view: RenderableType, *, width: int = 80) -> str:
    return "\n".join(lines_of(view, width=width))
