"""What a person sees in a terminal, and what Ctrl-C does there."""

import json
import re
import shlex
import subprocess
from pathlib import Path

from federation import ATTENTIVE, DEAF, Gates, environment, ledger_rows
from pseudo_terminal import HIDE_CURSOR, PseudoTerminal

FLAGS = ("--workers", "2", "--rounds", "3", "--no-baselines")


def test_ctrl_c_finishes_a_simulation_and_the_command_that_it_tells_ends_the_run(tmp_path: Path) -> None:
    gates = Gates(tmp_path / "gates")
    gates.hold("worker-1", 2)
    seen = {"GATES": str(gates.folder), "NO_COLOR": "1"}
    with PseudoTerminal("simulation.cli", "--task", ATTENTIVE, *FLAGS, folder=tmp_path, **seen) as terminal:
        terminal.shows("1 of 3 ")
        terminal.shows("✓ worker-0")
        assert HIDE_CURSOR in terminal.raw
        terminal.press_ctrl_c()
        assert terminal.ends() == 130
    assert "finishing: committing round 2; press Ctrl-C again to stop at once\n" in terminal.shown
    assert terminal.is_cursor_visible
    told = re.search(r"\nstopped in round 2; to go on: (.*)\n", terminal.shown)
    assert told is not None, terminal.shown

    gates.release("worker-1", 2)
    command = [*shlex.split(told[1]), "--log-format", "json"]
    env = environment(GATES=str(gates.folder))
    again = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=60)

    assert again.returncode == 0, again.stderr
    state = Path(command[command.index("--state") + 1])
    folded = ledger_rows(tmp_path / state, "SELECT round, worker FROM updates WHERE verdict = 'folded' ORDER BY 1, 2")
    assert folded == [(number, f"worker-{index}") for number in (1, 2, 3) for index in (0, 1)]
    assert "\x1b" not in again.stdout + again.stderr
    assert [json.loads(line)["round"] for line in again.stderr.splitlines()] == [2, 3]


def test_a_second_ctrl_c_stops_at_once_and_gives_the_cursor_back(tmp_path: Path) -> None:
    gates = Gates(tmp_path / "gates")
    gates.hold("worker-0", 1)
    with PseudoTerminal(
        "simulation.cli", "--task", DEAF, *FLAGS, folder=tmp_path, columns=40, GATES=str(gates.folder)
    ) as terminal:
        terminal.shows("0 of 2 updates")
        terminal.press_ctrl_c()
        terminal.shows("finishing: committing round 1; press Ctrl-C again to stop at once")
        assert not terminal.is_cursor_visible
        terminal.press_ctrl_c()
        assert terminal.ends() == 130
    assert terminal.is_cursor_visible
    assert "stopped at once in round 1; to go on: " in terminal.shown
