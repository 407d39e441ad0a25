"""A whole federation in one process: the same code, the same result each time."""

import json
import signal
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file

import simulation.cli
from aggregator.settings import AggregatorSettings
from aggregator.state.ledger import Ledger
from broker.memory import MemoryBroker, MemoryTransport
from console.errors import ExitCode, FedmqError, SettingsError
from learning import Site, load_task
from simulation.baselines import Baseline, compare
from simulation.cli import main
from simulation.embedded import config_for
from simulation.processes import WorkerProcesses
from simulation.settings import SimulationSettings
from simulation.sites import SimulatedSites

TASK = """
import torch
from torch import nn
from torch.nn.functional import cross_entropy
from learning import Split, Supervised
from learning.partition import part_of


def samples(number, seed):
    random = torch.Generator().manual_seed(seed)
    inputs = torch.randn(number, 4, generator=random)
    return inputs, (inputs[:, 0] > 0).long() + (inputs[:, 1] > 0).long()


def data(site):
    if site.is_aggregator:
        return Split(test=samples(50, 1))
    inputs, labels = samples(200, 2)
    part = part_of(labels.numpy(), site)
    return Split(train=(inputs[part], labels[part]))


task = Supervised(model=lambda: nn.Linear(4, 3), data=data, loss=cross_entropy)
blind = Supervised(
    model=lambda: nn.Linear(4, 3), data=lambda site: Split() if site.is_aggregator else data(site), loss=cross_entropy
)


def some(site):
    if site.name == "pooled":
        raise FileNotFoundError("all.csv")
    return Split() if site.name == "worker-1" else data(site)


uneven = Supervised(model=lambda: nn.Linear(4, 3), data=some, loss=cross_entropy)
empty = Supervised(model=lambda: nn.Linear(4, 3), data=lambda site: Split(), loss=cross_entropy)


class FailsAtOneSite:
    def __init__(self, site, at_once):
        self.fails = site.name == "worker-1"
        if self.fails and at_once:
            raise ValueError("no data here")

    def model(self):
        return nn.Linear(4, 3)

    def train(self, model, plan):
        if self.fails:
            raise ValueError("no data here")
        return {"num_samples": 1}

    def evaluate(self, model):
        return {}


def fails_at_once(site):
    return FailsAtOneSite(site, True)


def fails_in_training(site):
    return FailsAtOneSite(site, False)
"""


@pytest.fixture
def task(tmp_path: Path) -> str:
    path = tmp_path / "simulated_task.py"
    path.write_text(TASK, encoding="utf-8")
    return f"{path}:task"


@pytest.fixture(autouse=True)
def signals_as_they_were() -> Iterator[None]:
    """The command takes Ctrl-C and SIGTERM over; the test run wants them back."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def closed(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """All ledgers and transports that were closed."""
    closed: list[object] = []

    def watch(kind: type[Ledger] | type[MemoryTransport]) -> None:
        close = kind.close
        monkeypatch.setattr(kind, "close", lambda self: (closed.append(kind), close(self))[1])

    watch(Ledger)
    watch(MemoryTransport)
    return closed


def simulate(task: str, state: Path, *flags: str) -> dict[str, Any]:
    code = main(["--task", task, "--state", str(state), "--workers", "3", "--rounds", "2", "--epochs", "1", *flags])
    assert code == ExitCode.OK
    loaded: dict[str, Any] = json.loads((state / "summary.json").read_text(encoding="utf-8"))
    return loaded


def test_the_same_seed_gives_the_same_model_and_another_seed_another(task: str, tmp_path: Path) -> None:
    digests = [
        simulate(task, tmp_path / f"{number}", "--no-baselines", "--seed", seed)["final"]["model_sha256"]
        for number, seed in enumerate(["5", "5", "6"])
    ]
    assert digests[0] == digests[1]
    assert digests[0] != digests[2]


POISONED = """
import torch
from torch import nn


class Sites:
    def __init__(self, site):
        self.site = site

    def model(self):
        return nn.Linear(1, 1, bias=False)

    def train(self, model, plan):
        with torch.no_grad():
            model.weight.add_(float("nan") if self.site.name == "worker-2" else 1.0)
        return {"num_samples": 1}

    def evaluate(self, model):
        odd = float("nan") if self.site.name == "worker-1" else 1.0
        return {} if self.site.is_aggregator else {"weight": model.weight.item(), "odd": odd}
"""


@pytest.mark.parametrize("jobs", ["1", "2"])
def test_a_site_whose_training_diverges_is_named_and_the_sites_measure_the_last_model(
    tmp_path: Path, jobs: str
) -> None:
    path = tmp_path / "poisoned.py"
    path.write_text(POISONED, encoding="utf-8")
    flags = ["--no-baselines", "--jobs", jobs]
    summary = simulate(f"{path}:Sites", tmp_path / "run", *flags)
    assert [(one["folded"], one["diverged"]) for one in summary["rounds"]] == [(2, 1), (2, 1)]
    first, last = [one["worker_metrics"]["eval.weight"] for one in summary["rounds"]]
    assert last == pytest.approx(first + 1.0)
    assert summary["rounds"][-1]["worker_metrics"]["eval.odd"] == 1.0
    assert summary["rounds"][-1]["num_not_finite"] == {"eval.odd": 1}
    model = load_file(tmp_path / "run" / "models" / "last.safetensors")
    assert last == pytest.approx(model["weight"].item())  # of the last model, not of the one before


def test_a_model_that_travels_in_blobs_comes_to_the_same_digest(task: str, tmp_path: Path) -> None:
    inline = simulate(task, tmp_path / "inline", "--no-baselines")
    blobs = simulate(task, tmp_path / "blobs", "--no-baselines", "--inline-cap", "8", "--part-bytes", "16")
    assert blobs["final"]["model_sha256"] == inline["final"]["model_sha256"]


COMPRESSED = [
    ["--compression", "float16"],
    ["--compression", "int8"],
    ["--compression", "topk:0.25"],
    ["--shared", "weight"],
    ["--compression", "int8", "--shared", "!bias"],
]


@pytest.mark.parametrize("flags", COMPRESSED, ids=" ".join)
def test_a_compressed_run_comes_to_the_same_digest_however_it_travels(
    task: str, tmp_path: Path, flags: list[str]
) -> None:
    small = ["--no-baselines", "--rounds", "4", *flags]
    inline = simulate(task, tmp_path / "inline", *small)
    blobs = simulate(task, tmp_path / "blobs", *small, "--inline-cap", "0", "--part-bytes", "8", "--zstd", "3")
    assert blobs["final"]["model_sha256"] == inline["final"]["model_sha256"]
    assert inline["final"]["model_sha256"] != simulate(task, tmp_path / "plain", *small[:3])["final"]["model_sha256"]


@pytest.mark.parametrize("flags", COMPRESSED, ids=" ".join)
def test_a_compressed_simulation_goes_on_from_its_directory(task: str, tmp_path: Path, flags: list[str]) -> None:
    """Its workers are new ones; what they carried from round to round is in the directory too."""
    small = ["--no-baselines", *flags]
    whole = simulate(task, tmp_path / "whole", *small, "--rounds", "4")
    simulate(task, tmp_path / "parts", *small, "--rounds", "2")
    assert simulate(task, tmp_path / "parts", *small, "--rounds", "4")["final"] == whole["final"]


def test_a_summary_has_the_documented_fields_and_both_baselines(
    task: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    summary = simulate(task, tmp_path / "run", "--partition", "dirichlet:0.5")
    assert [row["round"] for row in summary["rounds"]] == [1, 2]
    assert {row["closed_by"] for row in summary["rounds"]} == {"quorum"}
    assert {row["folded"] for row in summary["rounds"]} == {3}
    assert summary["final"]["round"] == 2
    assert 0 <= summary["final"]["accuracy"] <= 1
    assert len(summary["baselines"]["single_sites"]) == 3
    assert summary["baselines"]["single_mean"].keys() == {"loss", "accuracy"}
    assert "accuracy" in summary["baselines"]["pooled"]
    told = capsys.readouterr().out
    assert summary["final"]["model_sha256"] in told
    assert "all data in one place" in told


def test_a_share_quorum_is_of_all_workers(task: str, tmp_path: Path) -> None:
    """All of them are there from the beginning; none is left out because another was faster."""
    summary = simulate(task, tmp_path / "run", "--no-baselines", "--quorum", "100%")
    assert [row["folded"] for row in summary["rounds"]] == [3, 3]


def test_a_simulation_goes_on_from_its_directory(task: str, tmp_path: Path) -> None:
    whole = simulate(task, tmp_path / "whole", "--no-baselines")
    simulate(task, tmp_path / "parts", "--no-baselines", "--rounds", "1")
    assert simulate(task, tmp_path / "parts", "--no-baselines")["final"] == whole["final"]


def test_a_finished_simulation_is_shown_again(task: str, tmp_path: Path) -> None:
    first = simulate(task, tmp_path / "run")
    assert simulate(task, tmp_path / "run") == first


def test_who_has_opened_the_summary_before_the_comparison_is_added_reads_the_whole_one_before(
    task: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with ExitStack() as stack:
        opened = []

        def compare_and_open(*args: Any, **others: Any) -> dict[str, Any]:
            opened.append(stack.enter_context((tmp_path / "summary.json").open(encoding="utf-8")))
            return compare(*args, **others)

        monkeypatch.setattr(simulation.cli, "compare", compare_and_open)
        after = simulate(task, tmp_path)
        before = json.load(opened[0])
    assert after == before | {"baselines": after["baselines"]}
    assert "baselines" not in before


@pytest.mark.parametrize(
    ("way", "jobs", "code", "opened"),
    [
        ("fails_at_once", "1", ExitCode.TASK, []),
        ("fails_at_once", "2", ExitCode.TASK, []),
        ("fails_in_training", "1", ExitCode.TASK, [MemoryTransport, Ledger]),
    ],
)
def test_an_error_of_a_worker_is_what_is_told_and_leaves_nothing_open(
    task: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    closed: list[object],
    way: str,
    jobs: str,
    code: ExitCode,
    opened: list[type],
) -> None:
    flags = ["--task", task.replace(":task", f":{way}"), "--state", str(tmp_path), "--workers", "2", "--jobs", jobs]
    assert main(flags) == code
    assert "no data here" in capsys.readouterr().err.splitlines()[-1]
    assert closed == opened


EXITS = """
import sys
from torch import nn

WHERE = {where!r}

class Exits:
    def __init__(self, site):
        self.name = site.name
        self.at("data")

    def at(self, place):
        if place == WHERE and self.name:
            sys.exit(f"leaving {{place}}")

    def model(self):
        self.at("model")
        return nn.Linear(1, 1)

    def train(self, model, plan):
        self.at("train")
        return {{"num_samples": 1}}

    def evaluate(self, model):
        self.at("evaluate")
        if WHERE == "judge" and self.name is None:
            sys.exit(0)
        return {{}}
"""


@pytest.mark.parametrize(
    ("where", "jobs", "said"),
    [
        ("data", "1", "calling {path}:Exits with the site raised SystemExit: leaving data ({path}:14)"),
        ("model", "1", "worker-0: the task's model() raised SystemExit: leaving model ({path}:14)"),
        ("train", "1", "worker-0: the task's train() raised SystemExit: leaving train ({path}:14)"),
        ("evaluate", "1", "worker-0: the task's evaluate() raised SystemExit: leaving evaluate ({path}:14)"),
        ("judge", "1", "the task's evaluate() at the aggregator raised SystemExit: 0 ({path}:27)"),
        ("train", "2", "worker-0: the task's train() raised SystemExit: leaving train ({path}:14)"),
    ],
)
def test_a_task_that_exits_is_a_task_error_with_its_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], where: str, jobs: str, said: str
) -> None:
    path = tmp_path / "exits.py"
    path.write_text(EXITS.format(where=where), encoding="utf-8")
    flags = ["--task", f"{path}:Exits", "--workers", "2", "--state", str(tmp_path / "run"), "--jobs", jobs]
    assert main(flags) == ExitCode.TASK
    assert capsys.readouterr().err == f"fl-simulate: {said.format(path=path)}\n"


def test_workers_that_cannot_be_started_over_a_broker_leave_nothing_open(
    task: str, tmp_path: Path, closed: list[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    def start(processes: WorkerProcesses) -> WorkerProcesses:
        raise FedmqError("no process left")

    monkeypatch.setattr(simulation.cli, "connect", lambda settings, **others: MemoryTransport(MemoryBroker()))
    monkeypatch.setattr(WorkerProcesses, "__enter__", start)
    assert main(["--task", task, "--state", str(tmp_path), "--broker", "amqp://127.0.0.1:1/"]) == ExitCode.FAILED
    assert {*closed} == {MemoryTransport}  # the ledger is opened when the aggregator starts


@pytest.mark.parametrize("jobs", ["1", "2"])
def test_a_site_without_samples_is_left_out_with_a_line_unless_there_is_no_other(
    task: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], jobs: str
) -> None:
    flags = ["--jobs", jobs] + (["--no-baselines"] if jobs == "2" else [])
    summary = simulate(task.replace(":task", ":uneven"), tmp_path / "run", *flags)
    shown = capsys.readouterr()
    assert "left out, for want of training samples: worker-1" in shown.err
    assert [row["folded"] for row in summary["rounds"]] == [2, 2]
    if jobs == "1":
        assert len(summary["baselines"]["single_sites"]) == 2
        reason = "no comparison with all data in one place: the task's train() raised FileNotFoundError: all.csv"
        assert summary["baselines"]["no_pooled"].startswith(reason)
        assert f"for comparison: {reason}" in shown.err
        assert "all data in one place" not in shown.out.partition("no comparison")[0]

    nobody = ["--task", task.replace(":task", ":empty"), "--state", str(tmp_path / "none"), "--jobs", jobs]
    assert main([*nobody, "--workers", "2"]) == ExitCode.TASK
    assert capsys.readouterr().err == "fl-simulate: no site has training samples\n"


def test_a_task_without_central_data_shows_what_workers_measured(
    task: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    summary = simulate(task.replace(":task", ":blind"), tmp_path / "run")
    assert summary["final"]["metrics"] == {}
    assert "train.loss" in summary["final"]["worker_metrics"]
    assert summary["baselines"].keys() == {"none"}
    shown = capsys.readouterr()
    reason = "no comparison with single sites: the task evaluates nothing at the aggregator"
    assert reason in shown.err
    assert reason in " ".join(shown.out.split())


@pytest.mark.parametrize(
    ("flags", "code"),
    [
        (["--task", "nonsense"], ExitCode.TASK),
        (["--workers", "0"], ExitCode.USAGE),
        (["--partition", "nonsense"], ExitCode.TASK),
        (["--seed", "9"], ExitCode.STATE),
    ],
)
def test_what_cannot_be_is_one_line_and_an_exit_code(
    task: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], flags: list[str], code: ExitCode
) -> None:
    state = tmp_path / "run"
    simulate(task, state, "--no-baselines")
    capsys.readouterr()
    assert main(["--task", task, "--state", str(state), "--rounds", "2", *flags]) == code
    error = capsys.readouterr().err
    assert error.startswith("fl-simulate: ")
    assert error.count("\n") == 1
    assert "Traceback" not in error


def test_the_aggregator_s_settings_are_those_of_the_simulation(tmp_path: Path) -> None:
    settings = SimulationSettings(state=tmp_path, workers=5, lr=0.5, min_updates=2, seed=3)
    run = settings.of_aggregator()
    assert isinstance(run, AggregatorSettings)
    assert (str(run.quorum), run.lr, run.min_updates, run.seed, run.state) == ("5", 0.5, 2, 3, tmp_path)
    assert run.local == settings.local
    assert AggregatorSettings.model_validate(run.model_dump(exclude={"broker"})) is not None
    assert str(SimulationSettings(state=tmp_path, quorum="80%").of_aggregator().quorum) == "80%"


def test_the_environment_of_an_aggregator_is_not_that_of_a_simulation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FEDMQ_ROLE", "partial")
    run = SimulationSettings(state=tmp_path).of_aggregator()
    assert (run.role, run.run) == ("root", "simulation")


def test_the_aggregator_s_settings_are_checked_as_any(tmp_path: Path) -> None:
    wrong = SimulationSettings(state=tmp_path).model_copy(update={"rounds": 0})
    with pytest.raises(SettingsError, match="rounds"):
        wrong.of_aggregator()


def test_two_directories_have_two_queues_and_one_has_one(tmp_path: Path) -> None:
    queues = [SimulationSettings(state=tmp_path / name).of_aggregator().queue for name in ("a", "b", "a")]
    assert queues[0] == queues[2] != queues[1]
    assert SimulationSettings(state=tmp_path, queue="mine").of_aggregator().queue == "mine"


def test_simulated_sites_share_the_data_out_without_overlap(task: str) -> None:
    sites = SimulatedSites.numbered(3)
    parts = [load_task(task, sites.site(index, "iid")) for index in range(3)]
    assert sum(len(part.split.train[0]) for part in parts) == 200  # type: ignore[attr-defined]
    assert [sites.site(index, "iid").name for index in range(3)] == list(sites.names)


def test_a_baseline_is_trained_as_a_site_in_the_run_would_be(task: str) -> None:
    """One site in a federation of one is that site alone."""
    settings = SimulationSettings(task=task, epochs=1)
    judge = load_task(task, Site())
    torch.manual_seed(0)
    initial = dict(judge.model().state_dict())
    baseline = Baseline(
        task=task,
        partition="iid",
        sites=SimulatedSites.numbered(1),
        rounds=2,
        seed=0,
        local_in=settings.local_in,
        initial=initial,
    )
    told: list[str] = []
    result = compare(baseline, judge, on_step=told.append)
    assert told == ["site 1 of 1 alone", "all data in one place"]
    assert result["single_mean"]["loss"] == result["single_sites"][0]["loss"]
    assert result["single_sites"][0]["num_samples"] == 50


def test_a_federation_of_one_is_that_site_alone(task: str, tmp_path: Path) -> None:
    summary = simulate(task, tmp_path / "run", "--workers", "1")
    assert summary["final"]["accuracy"] == pytest.approx(summary["baselines"]["single_mean"]["accuracy"])
    assert summary["final"]["loss"] == pytest.approx(summary["baselines"]["single_mean"]["loss"], rel=1e-5)


def test_a_floor_above_the_workers_that_have_samples_is_refused() -> None:
    settings = AggregatorSettings(min_updates=3)
    assert config_for(["a", "b", "c"], settings).policy.min_updates == 3
    with pytest.raises(SettingsError, match="--min-updates 3 is out of reach: 2 workers have samples to train with"):
        config_for(["a", "b"], settings)


@pytest.mark.parametrize("given", [{"min_updates": 4}, {"sample": "2", "quorum": "3"}])
def test_a_simulation_of_too_few_workers_is_refused(given: dict[str, Any]) -> None:
    with pytest.raises(
        ValidationError, match=r"is out of reach: there are 3 --workers|cannot be reached with --sample"
    ):
        SimulationSettings(workers=3, **given)


def test_what_a_simulation_asks_of_its_aggregator_is_one_line_where_it_is_wrong() -> None:
    with pytest.raises(SettingsError, match=r"^--rounds: .*greater than or equal to 1"):
        SimulationSettings.model_construct(**dict(SimulationSettings()) | {"rounds": 0}).of_aggregator()
