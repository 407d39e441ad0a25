"""The commands as they are installed. Each imports what it needs with the garbage collector at rest.

PyTorch and what is around it make a million objects that stay. Looked through again and again while they come, they
take a sixth of the seconds in which a command starts; and later collections pass them by, since they are frozen.
"""

import gc
import importlib
import os
import signal
from collections.abc import Callable
from types import FrameType

_HUGE_PAGES = "THP_MEM_ALLOC_ENABLE"
"""PyTorch's variable, read when the first tensor is made: large tensors lie in huge pages where the system has them."""
INTERRUPTED = 130
"""As in console/errors.py, which cannot be had before it is imported."""


def _run(module: str) -> int:
    """What the ``main`` of this module returns, its exit code; or that of a stop, if it is told to end before."""
    signal.signal(signal.SIGTERM, _ending_at_once(os.getpid()))  # until the command has something to finish
    os.environ.setdefault(_HUGE_PAGES, "1")
    gc.disable()
    try:
        command = importlib.import_module(module)
    except KeyboardInterrupt:
        return INTERRUPTED
    gc.freeze()
    gc.enable()
    return int(command.main())


def _ending_at_once(own: int) -> Callable[[int, FrameType | None], None]:
    """Ends this process with the code of a stop; one that was forked from it, by the signal, as if nothing were set."""

    def end(number: int, frame: FrameType | None) -> None:
        if os.getpid() == own:
            os._exit(INTERRUPTED)
        signal.signal(number, signal.SIG_DFL)
        signal.raise_signal(number)

    return end


def fl_worker() -> int:
    return _run("worker.cli")


def fl_aggregator() -> int:
    return _run("aggregator.cli")


def fl_keeper() -> int:
    return _run("keeper.cli")


def fl_init() -> int:
    return _run("scaffold.cli")


def fl_status() -> int:
    return _run("operations.status_cli")


def fl_simulate() -> int:
    return _run("simulation.cli")


def fl_statistics() -> int:
    return _run("simulation.statistics.cli")


def fl_dashboard() -> int:
    return _run("dashboard.cli")


def fl_run() -> int:
    return _run("operations.runs.run_cli")


def fl_model() -> int:
    return _run("operations.runs.model_cli")


def fl_dead() -> int:
    return _run("operations.dead_cli")


def fl_keys() -> int:
    return _run("operations.keys_cli")


def fl_privacy() -> int:
    return _run("privacy.planning.cli")
