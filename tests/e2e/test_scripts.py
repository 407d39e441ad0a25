"""Training scripts with a loop of their own, as processes on a real RabbitMQ."""

from pathlib import Path

import pytest
from federation import ROOT, Federation, run_command

from console.errors import ExitCode

pytest_plugins = ["federation_plugin"]
pytestmark = pytest.mark.timeout(300)
PLAIN = ROOT / "examples" / "scripts" / "plain.py"
SCRIPT = """\
import torch
import fedmq

model = torch.nn.Linear(1, 1)
for round in fedmq.rounds(model):
    print("in round", round.number, flush=True)
    {body}
print("after the loop")
"""


@pytest.fixture
def script(tmp_path: Path) -> Path:
    return tmp_path / "train.py"


def test_a_script_is_a_worker_started_by_itself_or_by_fl_worker(federation: Federation) -> None:
    width = ("--width", "16")
    aggregator = federation.script_aggregator(PLAIN, "--rounds", "8", "--quorum", "2", arguments=width)
    of_fl_worker = federation.script_worker("a", PLAIN, *width, "--site", "a", "--epochs", "2")
    by_itself = federation.script("b", PLAIN, *width, "--site", "b", "--epochs", "2")
    for command in (aggregator, of_fl_worker, by_itself):
        assert command.ends() == ExitCode.OK, command.tail
    for worker in (of_fl_worker, by_itself):
        worker.says("after the last round: ")
    assert sorted(federation.folded()) == [(number, name) for number in range(1, 9) for name in "ab"]
    accuracies = federation.summary["final"]["worker_metrics"]
    assert accuracies["eval.accuracy"] > 0.8


def test_what_a_script_raises_ends_it_with_its_own_traceback(federation: Federation, script: Path) -> None:
    script.write_text(SCRIPT.format(body="raise ValueError('mine')"))
    federation.script_aggregator(script, "--quorum", "1")
    for worker in (federation.script_worker("a", script), federation.script("b", script)):
        assert worker.ends() == ExitCode.FAILED
        traceback = worker.said[worker.said.index("Traceback") :]
        assert traceback.splitlines() == [
            "Traceback (most recent call last):",
            f'  File "{script}", line 7, in <module>',
            "    raise ValueError('mine')",
            "ValueError: mine",
        ]
        worker.says("leaves")


def test_sigterm_ends_the_loop_and_the_script_goes_on(federation: Federation, script: Path) -> None:
    script.write_text(SCRIPT.format(body="while not round.cancelled(): pass"))
    federation.script_aggregator(script, "--quorum", "1")
    worker = federation.script_worker("a", script)
    worker.says("in round 1")
    worker.terminate()
    assert worker.ends() == ExitCode.OK
    worker.says("after the loop")


@pytest.mark.parametrize(
    ("source", "code", "said"),
    [
        ("import fedmq", ExitCode.TASK, "train.py ended without a loop over fedmq.rounds(model)"),
        ("raise SystemExit(7)", 7, ""),
        (SCRIPT.format(body="pass"), ExitCode.UNREACHABLE, "localhost:1"),
    ],
    ids=["it never joins", "it ends by itself", "nobody answers"],
)
def test_what_ends_a_script_before_its_rounds_is_one_line(script: Path, source: str, code: int, said: str) -> None:
    script.write_text(source)
    flags = ("--script", "train.py", "--broker", "amqp://guest:guest@localhost:1/", "--connect-timeout-s", "0")
    ended = run_command("worker.cli", *flags, "--log-level", "ERROR", folder=script.parent)
    assert ended.returncode == code
    assert said in ended.stderr
    assert "Traceback" not in ended.stderr
