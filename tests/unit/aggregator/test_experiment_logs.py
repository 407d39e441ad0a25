"""TensorBoard and MLflow: what is in their own files when a run is over, also one that was stopped between."""

import struct
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from unit.aggregator.embedded_run import EmbeddedRun, StateTask

from aggregator.events import RoundClosed
from aggregator.settings import AggregatorSettings
from aggregator.watchers.experiment_logs import experiment_logs
from aggregator.watchers.mlflow_log import MLflowLog
from broker.states.tensors import State
from console.errors import SettingsError
from console.watching import fan_out

ZERO: State = {"w": torch.zeros(2)}
ONE: State = {"w": torch.ones(2)}
Begin = Callable[..., EmbeddedRun]


@pytest.fixture
def twice(begin: Begin) -> Callable[..., EmbeddedRun]:
    """A run of three rounds, stopped after the first and gone on with, each time with these logs."""

    def run(**logs: object) -> EmbeddedRun:
        task = StateTask(ZERO, lambda model: {"accuracy": 0.5})
        settings = AggregatorSettings(rounds=3, **logs)
        with experiment_logs(settings) as watchers:
            first = begin(task, rounds=3, quorum="1", on_event=fan_out(*watchers))
            first.fold_all([("a", ONE)])
            first.stop()
        with experiment_logs(settings) as watchers:
            again = begin(task, rounds=3, quorum="1", broker=first.broker, on_event=fan_out(*watchers))
            for _ in range(2):
                again.fold_all([("a", ONE)], train_metrics={"loss": 0.25})
        assert again.aggregator.is_finished
        return again

    return run


def scalars(folder: Path) -> Iterator[tuple[str, int, float]]:
    """(name, step, value) in TensorBoard's event files, read as its format says: length, CRC, record, CRC."""
    from tensorboardX.proto.event_pb2 import Event

    for path in sorted(folder.rglob("events.out.*")):
        content, offset = path.read_bytes(), 0
        while offset < len(content):
            (length,) = struct.unpack_from("<Q", content, offset)
            event = Event.FromString(content[offset + 12 : offset + 12 + length])
            offset += 12 + length + 4
            yield from ((value.tag, event.step, value.simple_value) for value in event.summary.value)


def test_tensorboard_has_each_round_once(twice: Callable[..., EmbeddedRun], tmp_path: Path) -> None:
    run = twice(tensorboard=tmp_path / "board")
    (folder,) = (tmp_path / "board").iterdir()
    assert folder.name == run.head.run_id
    found = list(scalars(folder))
    assert [(step, value) for name, step, value in found if name == "central/accuracy"] == [
        (1, 0.5),
        (2, 0.5),
        (3, 0.5),
    ]
    assert [step for name, step, _ in found if name == "workers/train.loss"] == [2, 3]
    assert [value for name, _, value in found if name == "round/num_folded"] == [1, 1, 1]


@pytest.mark.filterwarnings("ignore")  # of MLflow's file store, which wants to be a database
def test_mlflow_has_one_run_with_settings_metrics_and_digest(
    twice: Callable[..., EmbeddedRun], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    from mlflow import MlflowClient

    uri = (tmp_path / "mlflow").as_uri()
    run = twice(mlflow=uri)
    client = MlflowClient(tracking_uri=uri)
    experiment = client.get_experiment_by_name("fedmq")
    (found,) = client.search_runs([experiment.experiment_id])
    assert found.data.params["rounds"] == "3"
    assert "broker" not in found.data.params
    assert found.data.tags["model_sha256"] == run.summary["final"]["model_sha256"]
    assert found.info.status == "FINISHED"
    history = client.get_metric_history(found.info.run_id, "accuracy")
    assert [(point.step, point.value) for point in history] == [(1, 0.5), (2, 0.5), (3, 0.5)]


def test_an_mlflow_that_fails_is_told_of_once_and_holds_nobody(caplog: pytest.LogCaptureFixture) -> None:
    log = MLflowLog("nowhere://at.all", {})
    for number in range(5):
        log.on_event(RoundClosed(row={"round": number}))
    log.close()
    assert [record.message for record in caplog.records if "gets nothing more" in record.message] != []


@pytest.mark.parametrize(("setting", "module"), [("tensorboard", "tensorboardX"), ("mlflow", "mlflow")])
def test_what_is_not_installed_is_named(setting: str, module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    settings: dict[str, Any] = {setting: "somewhere"}
    with (
        pytest.raises(SettingsError, match=f"pip install 'fedmq.{setting}.'"),
        experiment_logs(AggregatorSettings(**settings)),
    ):
        pass
