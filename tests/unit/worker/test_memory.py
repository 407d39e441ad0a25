"""What a task remembers from round to round: kept with the round, so that a repeated one begins with the same."""

import json
import logging
import signal
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from test_worker_service import CONFIG, Site
from torch import nn
from torch.nn.functional import mse_loss

import simulation.cli
from broker.memory import MemoryTransport
from console import TaskError
from examples.remembering import Remembering
from learning import Plan
from learning.task import Site as TaskSite
from simulation import simulate
from worker.service import Worker
from worker.state import OnDisk

REMEMBERING = f"{Path(__file__).parents[3]}/examples/remembering.py:Remembering"


class Counting:
    """Counts its trainings in ``plan.memory``, in place and anew; ``seen`` is what each began with."""

    def __init__(self, write: Callable[[Any], object] = lambda memory: None) -> None:
        self.seen: list[dict[str, Any]] = []
        self.write = write

    def model(self) -> nn.Module:
        return nn.Linear(2, 1)

    def train(self, model: nn.Module, plan: Plan) -> Mapping[str, float]:
        memory = plan.memory
        self.seen.append(
            {name: value.tolist() if hasattr(value, "tolist") else value for name, value in memory.items()}
        )
        memory.setdefault("sum", torch.zeros(2)).add_(1)
        memory["count"] = memory.get("count", 0) + 1
        memory["half"] = memory["count"] / 2
        self.write(memory)
        return {"num_samples": 5}

    def evaluate(self, model: nn.Module) -> Mapping[str, float]:
        return {}


def worker_of(site: Site, task: Counting, state: Path | None = None) -> Worker:
    """A worker in place of the site's own; it begins as a process that was started again."""
    carried = OnDisk(state, "site-a") if state else None
    worker = Worker(CONFIG, task, MemoryTransport(site.broker), carried=carried)
    worker.start()
    worker.step()
    return worker


def after(number: int) -> dict[str, Any]:
    return {"sum": [float(number)] * 2, "count": number, "half": number / 2} if number else {}


@pytest.mark.parametrize("is_lasting", [False, True])
def test_what_is_written_is_there_in_the_next_round_with_its_type(is_lasting: bool, tmp_path: Path) -> None:
    site, task = Site(), Counting()
    worker = worker_of(site, task, tmp_path if is_lasting else None)
    for number in (1, 2, 3):
        site.publish(number)
        worker.step()
    assert task.seen == [after(0), after(1), after(2)]
    assert [type(task.seen[2][name]) for name in ("count", "half")] == [int, float]


def test_a_round_that_is_done_again_begins_with_the_memory_before_it(tmp_path: Path) -> None:
    site, task = Site(), Counting()
    worker = worker_of(site, task, tmp_path)
    for number in (1, 2):
        site.publish(number)
        worker.step()
    site.publish(2, epoch=2)  # the aggregator was killed, and asks again
    worker.step()
    worker_of(site, task, tmp_path)  # the worker was killed after it had kept what it carries, and before it sent
    assert task.seen == [after(0), after(1), after(1), after(1)]
    assert site.rounds() == [1, 2, 2, 2]
    assert len({update.sha256 for update in site.updates()[1:]}) == 1


def test_a_training_that_does_not_count_leaves_no_trace(tmp_path: Path) -> None:
    site, task = Site(), Counting()
    worker = worker_of(site, task, tmp_path)
    site.publish(1)
    worker.step()
    task.write = lambda memory: site.publish(3) if memory["count"] == 2 else None

    def train(model: nn.Module, plan: Plan) -> Mapping[str, float]:
        result = Counting.train(task, model, plan)
        plan.cancelled()
        return result

    task.train = train  # type: ignore[method-assign]
    site.publish(2)
    worker.step()
    assert task.seen == [after(0), after(1), after(1)]
    assert site.rounds() == [1, 3]


def test_what_a_task_forgets_is_forgotten(tmp_path: Path) -> None:
    site, task = Site(), Counting(write=lambda memory: memory.clear() if memory["count"] == 2 else None)
    worker = worker_of(site, task, tmp_path)
    for number in (1, 2, 3):
        site.publish(number)
        worker.step()
    assert task.seen == [after(0), after(1), after(0)]


def test_a_task_that_remembers_nothing_leaves_nothing_on_the_disk(tmp_path: Path) -> None:
    site = Site()
    worker = worker_of(site, Counting(write=lambda memory: memory.clear()), tmp_path)
    site.publish(1)
    worker.step()
    assert not list(tmp_path.rglob("*.safetensors"))


def test_without_a_state_directory_it_is_said_once_that_a_restart_loses_it(caplog: pytest.LogCaptureFixture) -> None:
    site = Site()
    worker = worker_of(site, Counting())
    with caplog.at_level(logging.WARNING):
        for number in (1, 2):
            site.publish(number)
            worker.step()
    assert [record.getMessage() for record in caplog.records] == [
        "what the task keeps in plan.memory is lost when this worker is restarted; --state keeps it"
    ]


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ({"a": 1}, r"plan.memory\['x'\] cannot be of type dict"),
        (True, "of type bool"),
        (None, "of type NoneType"),
        (2**63, "more than 64 bits"),
        (torch.zeros(2).to_sparse(), r"plan.memory\['x'\] cannot be kept"),
        (torch.zeros(2, dtype=torch.complex64), r"plan.memory\['x'\] cannot be kept"),
    ],
    ids=["dict", "bool", "None", "large int", "sparse", "complex"],
)
def test_a_value_that_cannot_be_kept_is_named(value: Any, told: str) -> None:
    site = Site()
    worker = worker_of(site, Counting(write=lambda memory: memory.update(x=value)))
    site.publish(1)
    with pytest.raises(TaskError, match=told):
        worker.step()


@pytest.fixture(autouse=True)
def signals_as_they_were() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def test_adamw_goes_on_as_in_one_training_without_rounds(tmp_path: Path) -> None:
    """One site, five rounds of three steps: plain PyTorch's fifteen steps of one optimizer."""
    history = simulate(REMEMBERING, workers=1, rounds=5, epochs=3, lr=0.1, state=tmp_path / "run", seed=3)
    torch.manual_seed(3)
    task = Remembering(TaskSite(name="worker-0", index=0, num_sites=1))
    model = task.model()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    for _ in range(15):
        optimizer.zero_grad()
        mse_loss(model(task.inputs), task.targets).backward()
        optimizer.step()
    federated = history.load_model(task.model()).state_dict()
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(federated[name], tensor, rtol=1e-5, atol=1e-5)


@pytest.mark.timeout(120)
def test_a_simulation_remembers_alike_with_any_number_of_jobs_and_after_a_pause(tmp_path: Path) -> None:
    def digest(name: str, *argv: str) -> str:
        own = ["--task", REMEMBERING, "--workers", "3", "--no-baselines", "--state", str(tmp_path / name)]
        assert simulation.cli.main([*own, *argv]) == 0
        summary = json.loads((tmp_path / name / "summary.json").read_text(encoding="utf-8"))
        return str(summary["final"]["model_sha256"])

    at_once = digest("one", "--rounds", "4")
    assert digest("two", "--rounds", "4", "--jobs", "2") == at_once
    digest("paused", "--rounds", "2")
    assert digest("paused", "--rounds", "4") == at_once
