"""Processes that end with the one that started them. Nobody is told of its kill -9; but a pipe that it held closes."""

import os
import signal
import threading
import time
from collections.abc import Callable

from console import ExitCode

_LEAVE_S = 3.0


def end_with(is_gone: Callable[[], object]) -> None:
    """Has this process end soon after ``is_gone``, which is called in a thread of its own, returns.

    It gets a SIGTERM, as from a person. A clean stop that takes more than three seconds is cut short: there is nobody
    left who could use what it is at.
    """

    def watch() -> None:
        is_gone()
        main = threading.main_thread().ident
        assert main is not None
        signal.pthread_kill(main, signal.SIGTERM)  # to this thread, which alone runs Python's handlers
        time.sleep(_LEAVE_S)
        os._exit(ExitCode.INTERRUPTED)

    threading.Thread(target=watch, name="watch parent", daemon=True).start()
