"""Many workers in a simulation: one model and one answer in memory, the same bits from any number of processes."""

import json
import signal
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import nn

from aggregator.events import RoundClosed
from aggregator.history import History
from aggregator.service import Aggregator
from aggregator.settings import AggregatorSettings
from aggregator.state.checkpoint import StateDirectory
from broker.memory import MemoryBroker, MemoryTransport
from broker.transport import Source
from broker.wire.topology import Topology
from console.errors import ExitCode
from learning import Site, load_task
from learning.task import Plan
from simulation.baselines import sampled_sites
from simulation.cli import main
from simulation.embedded import config_for, run_embedded
from simulation.sites import SimulatedSites
from simulation.slot import LocalSlot
from simulation.slot_process import SlotPlan, SlotProcess

TASK = """
import logging
import os
import torch
from torch import nn
from torch.nn.functional import cross_entropy
from learning import Split, Supervised
from learning.partition import part_of


def data(site):
    random = torch.Generator().manual_seed(2)
    inputs = torch.randn(250, 4, generator=random)
    labels = (inputs[:, 0] > 0).long()
    if site.is_aggregator:
        return Split(test=(inputs, labels))
    part = part_of(labels.numpy(), site)
    return Split(train=(inputs[part], labels[part]))


def model():
    return nn.Sequential(nn.Linear(4, 3), nn.Dropout(0.5), nn.Linear(3, 2))


task = Supervised(model=model, data=data, loss=cross_entropy)


class Dies:
    def __init__(self, site): self.site = site
    def model(self): return nn.Linear(1, 1)
    def train(self, model, plan): os._exit(9)
    def evaluate(self, model): return {}


class Wrong(Dies):
    def train(self, model, plan): return {}


class Talks(Dies):
    def train(self, model, plan):
        print(f"psst from {self.site.name}")
        logging.getLogger("talks").warning("careful, %s", self.site.name)
        return {"num_samples": 1}
"""


@pytest.fixture
def task(tmp_path: Path) -> str:
    path = tmp_path / "many_task.py"
    path.write_text(TASK, encoding="utf-8")
    return str(path)


@pytest.fixture(autouse=True)
def signals_as_they_were() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


class Counted:
    """A task that adds its site's number to a weight, and knows the models of all."""

    models: ClassVar[list[nn.Module]] = []

    def __init__(self, number: int) -> None:
        self.number = number

    def model(self) -> nn.Module:
        Counted.models.append(nn.Linear(2, 1))
        return Counted.models[-1]

    def train(self, model: nn.Module, plan: Plan) -> dict[str, float]:
        with torch.no_grad():
            model.weight += self.number  # type: ignore[operator]
        return {"num_samples": 1}

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        return {}


def num_storages_of(models: Iterable[nn.Module]) -> int:
    return len({tensor.untyped_storage().data_ptr() for model in models for tensor in model.state_dict().values()})


def sampled(folder: Path, sample: str, *, num_workers: int, num_slots: int) -> tuple[str, list[list[int]]]:
    """The digest of a run in which some take part, and who trained in each round."""
    names = [f"worker-{number}" for number in range(num_workers)]
    settings = AggregatorSettings(task="counted", rounds=3, sample=sample, state=folder, commit_every_s=1e9)
    broker, trained = MemoryBroker(), [[], [], []]

    class Noted(Counted):
        def train(self, model: nn.Module, plan: Plan) -> dict[str, float]:
            trained[plan.round - 1].append(self.number)
            return super().train(model, plan)

    slots = [
        LocalSlot(
            {names[number]: Noted(number) for number in range(first, num_workers, num_slots)},
            topology=Topology(settings.queue),
            inline_cap=settings.inline_cap,
        )
        for first in range(num_slots)
    ]
    aggregator = Aggregator(config_for(names, settings), Counted(0), MemoryTransport(broker))
    with closing(aggregator):
        run_embedded(aggregator, broker, slots)
    assert aggregator.is_finished
    with closing(History(folder)) as history:
        rows = history.rounds()
    assert [row["num_folded"] for row in rows] == [row["num_chosen"] for row in rows] == list(map(len, trained))
    return rows[-1]["model_sha256"], trained


def test_of_a_thousand_workers_a_tenth_trains_and_a_round_waits_for_no_other(tmp_path: Path) -> None:
    _, trained = sampled(tmp_path, "0.1", num_workers=1000, num_slots=1)
    assert [70 < len(each) < 130 for each in trained] == [True] * 3
    assert len(set(map(tuple, trained))) == 3


@pytest.mark.parametrize("sample", ["0.2", "5"])
def test_the_same_take_part_in_any_number_of_slots_and_give_the_same_bits(tmp_path: Path, sample: str) -> None:
    runs = [sampled(tmp_path / str(number), sample, num_workers=20, num_slots=number) for number in (1, 3)]
    assert runs[0][0] == runs[1][0]
    assert [sorted(each) for each in runs[0][1]] == [sorted(each) for each in runs[1][1]]
    if sample == "5":
        assert sorted(runs[0][1][0]) == [1, 2, 6, 16, 17], "golden trace H"


def test_a_round_of_which_nobody_is_chosen_at_first_is_drawn_again_in_a_simulation(tmp_path: Path) -> None:
    _, trained = sampled(tmp_path, "0.01", num_workers=3, num_slots=1)
    assert all(trained)


def test_a_thousand_workers_need_the_memory_of_one_model_a_slot_and_leave_one_update_waiting(tmp_path: Path) -> None:
    settings = AggregatorSettings(task="counted", rounds=2, quorum="1000", state=tmp_path / "state", commit_every_s=1e9)
    broker, events, waiting = MemoryBroker(), [], []
    aggregator = Aggregator(settings.config, Counted(0), MemoryTransport(broker), on_event=events.append)
    Counted.models.clear()
    slots = [
        LocalSlot(
            {f"worker-{number}": Counted(number) for number in range(first, 1000, 2)},
            topology=Topology(settings.queue),
            inline_cap=settings.inline_cap,
        )
        for first in (0, 1)
    ]
    assert len(Counted.models) == 1000
    assert num_storages_of(Counted.models) == len(slots) * 2  # of a weight and a bias

    def on_answer(number: int) -> None:
        waiting.append(len(broker.queues[Source.UPDATES]))

    with closing(aggregator):
        run_embedded(aggregator, broker, slots, on_answer=on_answer)

    assert len(Counted.models) == 1001  # the first is the aggregator's
    assert num_storages_of(Counted.models[:1000]) == len(slots) * 2
    closed = [event.row for event in events if isinstance(event, RoundClosed)]
    assert [row["num_folded"] for row in closed] == [1000, 1000]
    assert waiting == [1] * 2000
    torch.manual_seed(settings.seed)
    mean_of_all = Counted(0).model().weight + 2 * sum(range(1000)) / 1000
    saved = StateDirectory(settings.state).model(2).state()["weight"]
    assert torch.allclose(saved, mean_of_all)


def simulate(task: str, state: Path, *flags: str) -> dict[str, Any]:
    assert main(["--task", task, "--state", str(state), "--rounds", "2", "--no-baselines", *flags]) == ExitCode.OK
    loaded: dict[str, Any] = json.loads((state / "summary.json").read_text(encoding="utf-8"))
    return loaded


@pytest.mark.parametrize(
    "flags", [(), ("--quorum", "40%"), ("--inline-cap", "8", "--part-bytes", "16")], ids=["all", "quorum", "blobs"]
)
def test_a_hundred_workers_come_to_the_same_digest_in_one_process_and_in_two(
    task: str, tmp_path: Path, flags: tuple[str, ...]
) -> None:
    one = simulate(f"{task}:task", tmp_path / "one", "--workers", "100", *flags)
    two = simulate(f"{task}:task", tmp_path / "two", "--workers", "100", "--jobs", "2", *flags)
    assert two["final"] == one["final"]
    assert [row["folded"] for row in two["rounds"]] == ([40] * 2 if "--quorum" in flags else [100] * 2)


@pytest.mark.parametrize("jobs", ["1", "2"])
def test_more_sites_than_samples_are_one_line_and_an_exit_code(
    task: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], jobs: str
) -> None:
    flags = ["--workers", "251", "--jobs", jobs, "--state", str(tmp_path / "state")]
    assert main(["--task", f"{task}:task", *flags]) == ExitCode.TASK
    assert capsys.readouterr().err == (
        "fl-simulate: no data for site 'worker-0': 250 samples cannot be split into 251 parts, none empty;"
        " for any number of sites: draws:K, with parts that overlap\n"
    )


def test_a_worker_s_error_in_a_training_process_is_the_command_s(
    task: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--workers", "2", "--jobs", "2", "--state", str(tmp_path / "state")]
    assert main(["--task", f"{task}:Wrong", *flags]) == ExitCode.TASK
    assert "must return num_samples" in capsys.readouterr().err


def test_a_training_process_that_dies_ends_the_simulation(
    task: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--workers", "2", "--jobs", "2", "--state", str(tmp_path / "state")]
    assert main(["--task", f"{task}:Dies", *flags]) == ExitCode.FAILED
    assert "a training process ended with exit code 9" in capsys.readouterr().err


def test_a_slot_that_was_told_to_stop_has_nothing_more_to_say(task: str) -> None:
    plan = SlotPlan(
        task=f"{task}:task",
        partition="iid",
        queue="updates",
        inline_cap=2**20,
        log_level="WARNING",
        sites=SimulatedSites.numbered(1),
        indices=[0],
    )
    with SlotProcess(plan) as slot:
        slot.stop()
        assert slot.answer() == []


def test_what_training_processes_say_comes_out_of_this_one_whose_terminal_it_is(
    task: str,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    settings = AggregatorSettings(task=f"{task}:Talks", rounds=1, quorum="2", state=tmp_path / "state")
    broker = MemoryBroker()
    aggregator = Aggregator(settings.config, load_task(settings.task, Site()), MemoryTransport(broker))
    with ExitStack() as stack:
        plans = [
            SlotPlan(
                task=settings.task,
                partition="iid",
                queue=settings.queue,
                inline_cap=settings.inline_cap,
                log_level="WARNING",
                sites=SimulatedSites.numbered(2),
                indices=[index],
                is_live=True,
            )
            for index in range(2)
        ]
        stack.callback(aggregator.close)
        run_embedded(aggregator, broker, [stack.enter_context(SlotProcess(plan)) for plan in plans])

    told = [(record.name, record.levelname, record.getMessage()) for record in caplog.records]
    assert told == [("talks", "WARNING", f"careful, worker-{index}") for index in range(2)]
    assert capfd.readouterr().err == "psst from worker-0\npsst from worker-1\n"


def test_ten_of_many_sites_are_trained_alone() -> None:
    assert sampled_sites(3) == [0, 1, 2]
    assert sampled_sites(1000) == list(range(0, 1000, 100))


def test_the_table_says_of_how_many_sites_the_mean_is(
    task: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state = tmp_path / "state"
    assert main(["--task", f"{task}:task", "--state", str(state), "--rounds", "1", "--workers", "50"]) == ExitCode.OK
    assert "one site alone (mean of 10 of 50)" in capsys.readouterr().out
    baselines = json.loads((state / "summary.json").read_text(encoding="utf-8"))["baselines"]
    assert (len(baselines["single_sites"]), baselines["num_sites"]) == (10, 50)
    assert "accuracy" in baselines["pooled"]
