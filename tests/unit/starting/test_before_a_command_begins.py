"""What ends a command while it still imports what it needs, which takes seconds."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from console.errors import ExitCode
from starting import commands

ROOT = Path(commands.__file__).parent.parent
SLOW = "import sys\nprint('importing', flush=True)\nsys.stdin.read()\n"
FORKING = """
import os, signal, time
reads, writes = os.pipe()
child = os.fork()
if child == 0:
    os.write(writes, b".")  # Python forgets a signal that comes while it forks
while child == 0:
    time.sleep(0.01)
os.read(reads, 1)
os.kill(child, signal.SIGTERM)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
def main():
    return 0
"""

pytestmark = pytest.mark.timeout(60)


def started(folder: Path, source: str) -> "subprocess.Popen[str]":
    """A command that is this module."""
    (folder / "slow_command.py").write_text(source)
    program = f"import sys; sys.path[:0] = [{str(folder)!r}, {str(ROOT)!r}]; from starting import commands; "
    program += "sys.exit(commands._run('slow_command'))"
    pipe = subprocess.PIPE
    return subprocess.Popen([sys.executable, "-c", program], stdin=pipe, stdout=pipe, stderr=pipe, text=True)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_command_that_is_told_to_end_while_it_starts_ends_with_the_code_of_a_stop(
    tmp_path: Path, number: signal.Signals
) -> None:
    with started(tmp_path, SLOW) as command:
        assert command.stdout is not None
        assert command.stdout.readline() == "importing\n"
        command.send_signal(number)
        said, errors = command.communicate(timeout=30)
    assert (command.returncode, said, errors) == (ExitCode.INTERRUPTED, "", "")
    assert ExitCode.INTERRUPTED == commands.INTERRUPTED


def test_a_process_that_a_task_forks_ends_by_the_signal_itself(tmp_path: Path) -> None:
    """PyTorch's loaders take another end of theirs for a failure."""
    with started(tmp_path, FORKING) as command:
        said, errors = command.communicate(timeout=30)
    assert (command.returncode, said, errors) == (0, f"{-signal.SIGTERM}\n", "")
