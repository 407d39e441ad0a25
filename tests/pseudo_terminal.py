"""A command in a terminal of its own, as a person runs it: what it shows, and keys pressed.

with PseudoTerminal("simulation.cli", "--task", task, folder=tmp_path) as terminal:
    terminal.shows("round 2")
    terminal.press_ctrl_c()
    assert terminal.ends() == 130
"""

import fcntl
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
import threading
from contextlib import suppress
from pathlib import Path

from federation import SOON_S, environment
from rabbitmq_node import wait_until

HIDE_CURSOR, SHOW_CURSOR = "\x1b[?25l", "\x1b[?25h"

# The child makes the terminal its own, so that a key reaches it as it would from a person.
_LOG_IN = "import os, sys; os.login_tty(0); os.execv(sys.argv[1], sys.argv[1:])"


class PseudoTerminal:
    """The terminal and its command, inside a ``with``; nothing of it goes on afterwards."""

    def __init__(
        self, module: str, *flags: str, folder: Path, columns: int = 80, lines: int = 24, **settings: str
    ) -> None:
        self._shown = bytearray()
        self._ours, theirs = pty.openpty()
        self.resize(columns, lines)
        self._process = subprocess.Popen(
            [sys.executable, "-c", _LOG_IN, sys.executable, "-m", module, *flags],
            cwd=folder,
            env=environment(TERM="xterm-256color", **settings),
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
        )
        os.close(theirs)
        self._reader = threading.Thread(target=self._read, name="pseudo terminal", daemon=True)
        self._reader.start()

    def __enter__(self) -> "PseudoTerminal":
        return self

    def __exit__(self, *error: object) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.kill()
        self._process.wait()
        self._reader.join()
        os.close(self._ours)

    def _read(self) -> None:
        with suppress(OSError):  # EIO: the last one who had it open is gone
            while piece := os.read(self._ours, 65536):
                self._shown.extend(piece)

    @property
    def raw(self) -> str:
        """All that was written to it."""
        return self._shown.decode(errors="replace")

    @property
    def shown(self) -> str:
        """The same without colours and moves of the cursor."""
        return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", self.raw).replace("\r", "")

    def shows(self, text: str) -> None:
        """Returns when it has shown this; fails when the command ends without, or does not."""
        wait_until(lambda: text in self.shown or self._process.poll() is not None, timeout_s=SOON_S)
        assert text in self.shown, f"never showed {text!r}, but:\n{self.shown[-3000:]}"

    def resize(self, columns: int, lines: int) -> None:
        fcntl.ioctl(self._ours, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))

    def press_ctrl_c(self) -> None:
        os.write(self._ours, b"\x03")

    def ends(self) -> int:
        """Its exit code, once all that it wrote was read."""
        code = self._process.wait(SOON_S)
        self._reader.join(SOON_S)
        return code

    @property
    def is_cursor_visible(self) -> bool:
        return self.raw.rfind(SHOW_CURSOR) >= self.raw.rfind(HIDE_CURSOR)
