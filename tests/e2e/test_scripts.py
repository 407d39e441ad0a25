"""Training scripts with a loop of their own, as processes on a real RabbitMQ."""

import importlib.util
import os
from pathlib import Path

import pytest
from federation import ROOT, Federation, run_command
from safetensors.torch import load_file
from torch import Tensor

from console.errors import ExitCode
from learning.scripts import ScriptedModel

pytest_plugins = ["federation_plugin"]
pytestmark = pytest.mark.timeout(300)
PLAIN = ROOT / "examples" / "scripts" / "plain.py"
ADAPTERS = ROOT / "examples" / "scripts" / "hugging_face.py"
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


@pytest.mark.skipif(
    importlib.util.find_spec("peft") is None and "FEDMQ_REQUIRE_BROKER" not in os.environ,
    reason="peft is in the extra `examples`",
)
def test_of_a_language_model_with_adapters_they_alone_travel_and_it_learns(federation: Federation) -> None:
    rounds = ("--shared", "trainable", "--rounds", "3", "--quorum", "3")
    aggregator = federation.script_aggregator(ADAPTERS, *rounds)
    workers = [federation.script_worker(name, ADAPTERS, "--site", name) for name in "abc"]
    assert [command.ends() for command in (aggregator, *workers)] == [ExitCode.OK] * 4, aggregator.tail

    whole = sum(tensor.nbytes for tensor in run_for_its_model(ADAPTERS).values())
    (model,) = (federation.state / "models").glob("round-00003.safetensors")
    shared = load_file(model)
    assert all(".lora_" in name for name in shared)
    assert sum(tensor.nbytes for tensor in shared.values()) <= 0.02 * whole
    travelled = federation.rows("SELECT num_bytes FROM updates WHERE verdict = 'folded'")
    assert len(travelled) == 9
    assert all(num_bytes <= 0.02 * whole for (num_bytes,) in travelled)
    losses = [row["worker_metrics"]["eval.loss"] for row in federation.summary["rounds"]]
    assert losses[2] < losses[1] < losses[0]


def run_for_its_model(script: Path) -> dict[str, Tensor]:
    with pytest.warns():  # the libraries' own, of what they will change
        return ScriptedModel(script).model().state_dict()
