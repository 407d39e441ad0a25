"""Processes that end with the one that started them. A kill -9 is not announced, but a pipe that it held closes."""

import os
import signal
import threading
import time
from collections.abc import Callable

from console import ExitCode

_LEAVE_S = 3.0


def end_with(is_gone: Callable[[], object]) -> None:
    """Ends this process soon after ``is_gone``, which is called in a separate thread, returns.

    The process gets a SIGTERM, as from a user. A clean stop that takes more than three seconds is cut short: nobody is
    left who could use its work.
    """

    def watch() -> None:
        is_gone()
        main = threading.main_thread().ident
        assert main is not None
        signal.pthread_kill(main, signal.SIGTERM)  # to this thread, which alone runs Python's handlers
        time.sleep(_LEAVE_S)
        os._exit(ExitCode.INTERRUPTED)

    threading.Thread(target=watch, name="watch parent", daemon=True).start()
