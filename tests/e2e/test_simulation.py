"""fl-simulate: the same bits in one process and over RabbitMQ, and no process left behind."""

import json
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from federation import ATTENTIVE, DEAF, LOADING, Federation, run_command
from rabbitmq_node import RabbitNode, wait_until

pytest_plugins = ["federation_plugin"]
pytestmark = pytest.mark.timeout(300)  # of which an idle machine needs ten seconds

DIGITS = ("--task", "digits", "--workers", "3", "--rounds", "3", "--partition", "dirichlet:0.5", "--no-baselines")
MASKED = ("--privacy", "secure", "--min-sites", "3")


@pytest.fixture(scope="module")
def embedded_sha256(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The digest of the same run in one process, without a broker."""
    folder = tmp_path_factory.mktemp("embedded")
    done = run_command("simulation.cli", *DIGITS, "--state", str(folder / "state"), folder=folder)
    assert done.returncode == 0, done.stderr
    return final_sha256(folder / "state")


def final_sha256(state: Path) -> str:
    summary = json.loads((state / "summary.json").read_text())
    assert [row["closed_by"] for row in summary["rounds"]] == ["quorum"] * 3
    assert [row["folded"] for row in summary["rounds"]] == [row.get("chosen", 3) for row in summary["rounds"]]
    return str(summary["final"]["model_sha256"])


def test_a_masked_run_over_rabbitmq_gives_the_same_model_as_in_one_process(
    federation: Federation, tmp_path: Path
) -> None:
    embedded = run_command("simulation.cli", *DIGITS, *MASKED, "--state", str(tmp_path / "embedded"), folder=tmp_path)
    assert embedded.returncode == 0, embedded.stderr
    over = federation.simulation(*DIGITS, *MASKED, "--queue", federation.queue, "--state", str(federation.state))
    assert over.ends() == 0, over.tail
    assert final_sha256(federation.state) == final_sha256(tmp_path / "embedded")
    assert {path.stat().st_mode & 0o077 for path in (federation.state / "keys").glob("*.key")} == {0}


@pytest.mark.parametrize(
    ("flags", "left"),
    [((), ()), (("--inline-cap", "0", "--part-bytes", "4096"), (4,))],
    ids=["inline", "in many small parts"],
)
def test_digits_over_rabbitmq_give_the_same_model_as_in_one_process(
    federation: Federation, node: RabbitNode, embedded_sha256: str, flags: tuple[str, ...], left: tuple[int, ...]
) -> None:
    """Of blobs only that of the final model is left."""
    own = ("--queue", federation.queue, "--state", str(federation.state))
    simulation = federation.simulation(*DIGITS, *own, *flags)

    assert simulation.ends() == 0, simulation.tail
    assert final_sha256(federation.state) == embedded_sha256
    assert embedded_sha256 in simulation.said
    blobs = [name for name in node.ctl("list_queues", "name").split() if name.startswith(f"{federation.queue}.blob.")]
    run_id = federation.summary["run_id"]
    assert sorted(blobs) == [federation.topology.model_blob(run_id, number) for number in left]
    with federation.channel() as channel:
        for name in blobs:
            channel.queue_delete(name)


@pytest.mark.parametrize(
    "flags",
    [
        (
            *("--compression", "int8", "--zstd", "3", "--inline-cap", "0", "--part-bytes", "4096"),
            *("--server-optimizer", "fedams:bias_correction=true"),
        ),
        ("--compression", "topk:0.05", "--shared", "!6.bias", "--server-optimizer", "fedexp"),
        ("--sample", "0.6"),
        ("--correction", "scaffold", "--sample", "2", "--compression", "int8"),
        ("--downlink", "bfloat16", "--inline-cap", "0", "--part-bytes", "4096"),
    ],
    ids=[
        "int8 and zstd, in parts, stepped by FedAMS",
        "topk, and a bias of one's own, by FedExP",
        "a share of the workers",
        "control variates",
        "bfloat16 down, in parts",
    ],
)
def test_what_is_compressed_kept_at_home_sampled_or_corrected_is_the_same_over_rabbitmq(
    federation: Federation, tmp_path: Path, flags: tuple[str, ...]
) -> None:
    embedded = run_command("simulation.cli", *DIGITS, *flags, "--state", str(tmp_path / "embedded"), folder=tmp_path)
    assert embedded.returncode == 0, embedded.stderr

    simulation = federation.simulation(*DIGITS, *flags, "--state", str(federation.state))

    assert simulation.ends() == 0, simulation.tail
    assert final_sha256(federation.state) == final_sha256(tmp_path / "embedded")
    assert (federation.state / "workers" / "worker-2").is_dir()


STATEFUL = """
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

class Stateful:
    def __init__(self, site):
        self.is_one, self.num_trained = site.name == "worker-1", 0

    def model(self):
        self.net = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.Linear(3, 1))
        return self.net

    def train(self, model, plan):
        self.num_trained += 1
        if self.is_one:
            model[0].requires_grad_(False)
        inputs = torch.arange(16.0).reshape(8, 2) % 5
        optimizer = torch.optim.SGD([p for p in self.net.parameters() if p.requires_grad], lr=0.01)
        for (batch,) in DataLoader(TensorDataset(inputs), batch_size=4, shuffle=True, num_workers=1):
            optimizer.zero_grad()
            (self.net(batch) - self.num_trained).square().mean().backward()
            optimizer.step()
        return {"num_samples": 8}

    def evaluate(self, model):
        return {}
"""


def test_a_task_that_keeps_state_on_its_module_comes_to_the_same_model_over_rabbitmq(
    federation: Federation, tmp_path: Path
) -> None:
    task = tmp_path / "stateful.py"
    task.write_text(STATEFUL, encoding="utf-8")
    flags = ("--task", f"{task}:Stateful", "--workers", "3", "--rounds", "3", "--no-baselines")
    embedded = run_command("simulation.cli", *flags, "--state", str(tmp_path / "embedded"), folder=tmp_path)
    assert embedded.returncode == 0, embedded.stderr

    simulation = federation.simulation(*flags, "--state", str(federation.state))

    assert simulation.ends() == 0, simulation.tail
    assert final_sha256(federation.state) == final_sha256(tmp_path / "embedded")


def test_a_simulation_told_to_stop_takes_its_workers_along_and_goes_on_when_run_again(
    federation: Federation, undisturbed_sha256: Callable[..., str]
) -> None:
    federation.gates.hold("worker-1", 2)
    flags = ("--task", ATTENTIVE, "--workers", "2", "--rounds", "3", "--no-baselines")
    own = ("--queue", federation.queue, "--state", str(federation.state))
    simulation = federation.simulation(*flags, *own)
    federation.gates.wait_for("worker-1", 2)
    workers = psutil.Process(simulation.pid).children()
    assert len(workers) == 2

    simulation.terminate()

    assert simulation.ends(timeout_s=15) == 130
    assert not any(worker.is_running() for worker in workers)
    assert "stopped in round 2; to go on: " in simulation.said
    assert f"--state {federation.state}" in simulation.said.splitlines()[-1]
    federation.gates.release("worker-1", 2)
    again = federation.simulation(*flags, *own)
    assert again.ends() == 0, again.tail
    assert federation.folded() == [(number, f"worker-{index}") for number in (1, 2, 3) for index in (0, 1)]
    assert federation.summary["final"]["model_sha256"] == undisturbed_sha256("worker-0", "worker-1", rounds=3)


@pytest.mark.parametrize(
    ("task", "is_embedded", "least"),
    [(ATTENTIVE, False, 2), (DEAF, False, 2), (ATTENTIVE, True, 2), (LOADING, True, 4)],
    ids=["rabbitmq", "rabbitmq, deaf", "slots", "slots with data workers, deaf"],
)
def test_what_a_killed_simulation_started_is_gone_within_seconds(
    federation: Federation, task: str, is_embedded: bool, least: int
) -> None:
    federation.gates.hold("worker-0", 1)
    federation.gates.hold("worker-1", 1)
    over = ("--jobs", "2", "--broker", "none") if is_embedded else ("--queue", federation.queue)
    simulation = federation.simulation(
        "--task", task, "--workers", "2", "--rounds", "3", "--state", str(federation.state), *over
    )
    federation.gates.wait_for("worker-0", 1)
    federation.gates.wait_for("worker-1", 1)
    started = psutil.Process(simulation.pid).children(recursive=True)
    assert len(started) >= least

    simulation.kill()

    assert wait_until(lambda: not any(is_there(process) for process in started), timeout_s=20)


def is_there(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_a_worker_that_fails_ends_the_simulation_and_is_named(federation: Federation) -> None:
    task = federation.folder / "broken.py"
    task.write_text(
        "from torch import nn\n"
        "class Broken:\n"
        "    def __init__(self, site): pass\n"
        "    def model(self): return nn.Linear(1, 1)\n"
        "    def train(self, model, plan): return {}\n"
        "    def evaluate(self, model): return {}\n"
    )
    own = ("--queue", federation.queue, "--state", str(federation.state))
    simulation = federation.simulation("--task", f"{task}:Broken", "--workers", "2", *own)

    assert simulation.ends() == 1
    last = simulation.said.splitlines()[-1]
    assert last.startswith("fl-simulate: worker-")
    assert "must return num_samples" in last
    assert "Traceback" not in simulation.said
