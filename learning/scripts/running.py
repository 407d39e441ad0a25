"""Running a script within one of our commands, as ``python script.py its own flags`` would run it."""

import runpy
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from torch import nn


@dataclass(slots=True)
class _Run:
    for_model_alone: bool
    was_reached: bool = False


_run: ContextVar[_Run | None] = ContextVar("run", default=None)
"""The script that runs in this thread, within one of our commands."""


class ModelGiven(BaseException):
    """Ends a script that is run for its model alone. No Exception: a script that catches those does not mean this."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__("the script has given its model")
        self.model = model


def run_script(path: Path, arguments: Sequence[str], *, for_model_alone: bool = False) -> bool:
    """Runs a script as ``__main__`` with these arguments; whether it came to ``fedmq.rounds(model)``.

    What it raises goes through; with ``for_model_alone``, ModelGiven does where it comes to its rounds.
    """
    run = _Run(for_model_alone)
    token = _run.set(run)
    try:
        with _as_a_program(path, arguments):
            runpy.run_path(str(path), run_name="__main__")
    finally:
        _run.reset(token)
    return run.was_reached


def reached(model: nn.Module) -> None:
    """Called by a script's rounds before the first of them. ModelGiven if the model is all that is asked for."""
    run = _run.get()
    if run is None:
        return
    run.was_reached = True
    if run.for_model_alone:
        raise ModelGiven(model)


def from_script(error: BaseException, path: Path) -> TracebackType | None:
    """The traceback of an error from where the script begins, as it would be if Python had run it."""
    step = error.__traceback__
    while step is not None and step.tb_frame.f_code.co_filename != str(path):
        step = step.tb_next
    return step


@contextmanager
def _as_a_program(path: Path, arguments: Sequence[str]) -> Iterator[None]:
    """What is imported beside the script is found first, as when Python runs it."""
    argv, search = sys.argv, sys.path[:]
    sys.argv = [str(path), *arguments]
    sys.path.insert(0, str(path.resolve().parent))
    try:
        yield
    finally:
        sys.argv, sys.path[:] = argv, search
