"""What Prometheus is told: always what the ledger says."""

import socket
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from prometheus_client import CollectorRegistry
from unit.aggregator.embedded_run import EmbeddedRun, StateTask

from aggregator.events import StandingBy
from aggregator.watchers.metrics import AggregatorMetrics
from broker.settings import ServiceSettings
from broker.states.tensors import State
from broker.wire.messages import Presence
from console.errors import SettingsError
from console.serving import Health
from console.serving.metrics import served
from worker.events import RoundLeft, RoundTrained, StateChanged, UpdateSent
from worker.watchers.metrics import WorkerMetrics

ZERO: State = {"w": torch.zeros(2)}
ONE: State = {"w": torch.ones(2)}
Begin = Callable[..., EmbeddedRun]


def value(registry: CollectorRegistry, metric: str, /, **labels: str) -> float | None:
    return registry.get_sample_value(metric, labels)


def test_counters_are_those_of_the_ledger_also_after_a_kill(begin: Begin, tmp_path: Path) -> None:
    metrics = AggregatorMetrics(tmp_path / "run")
    assert value(metrics.registry, "fedmq_updates_total", verdict="folded") is None
    run = begin(StateTask(ZERO), rounds=3, on_event=metrics.on_event)
    run.fold_all([("a", ONE), ("b", ONE)])
    run.send("c", {"w": torch.full((2,), float("nan"))})
    run.fold_all([("a", ONE)])
    run = run.crash()
    again = AggregatorMetrics(tmp_path / "run")
    run.aggregator._on_event = again.on_event
    run.start()
    run.fold_all([("a", ONE), ("b", ONE)])
    for registry in (metrics.registry, again.registry):
        for verdict, number, num_bytes in run.query(
            "SELECT verdict, count(*), sum(num_bytes) FROM updates GROUP BY verdict"
        ):
            assert value(registry, "fedmq_updates_total", verdict=verdict) == number
            assert value(registry, "fedmq_update_bytes_total", verdict=verdict) == num_bytes
        assert value(registry, "fedmq_rounds_total", closed_by="quorum") == 2
    run.aggregator.close()


def test_the_open_round_and_the_times_are_told(begin: Begin, tmp_path: Path) -> None:
    metrics = AggregatorMetrics(tmp_path / "run")
    metrics.on_event(StandingBy(queue="updates"))
    assert value(metrics.registry, "fedmq_leads") == 0
    task = StateTask(ZERO, lambda model: {"accuracy": 0.5})
    run = begin(task, rounds=3, quorum="2", on_event=metrics.on_event)
    run.fold_all([("a", ONE), ("b", ONE)])
    run.fold_all([("a", ONE)])
    registry = metrics.registry
    assert value(registry, "fedmq_leads") == 1
    assert value(registry, "fedmq_round") == 2
    assert (value(registry, "fedmq_round_target_updates"), value(registry, "fedmq_round_folded_updates")) == (2, 1)
    assert value(registry, "fedmq_metric", name="accuracy") == 0.5
    assert value(registry, "fedmq_fold_seconds_count") == 3
    assert value(registry, "fedmq_round_seconds_count") == 1
    assert value(registry, "fedmq_train_seconds_sum") == 1.0  # of the two that are committed, 0.5 each
    assert value(registry, "fedmq_staleness_rounds_bucket", le="0.0") == 2
    commits = value(registry, "fedmq_commit_seconds_count")
    assert commits is not None
    assert commits >= 1


def test_a_worker_s_metrics_follow_its_events() -> None:
    presence = Presence(worker="a", instance="0123456789abcdef", state="training", round=3, progress=0.25)
    metrics = WorkerMetrics(lambda: presence)
    metrics.on_event(StateChanged(presence=presence))
    metrics.on_event(RoundTrained(round=3, num_samples=7, train_s=1.5, metrics={}, eval_metrics={}))
    metrics.on_event(UpdateSent(round=3, num_bytes=1000, seconds=0.25))
    metrics.on_event(RoundLeft(round=4, reason="is over"))
    registry = metrics.registry
    assert value(registry, "fedmq_worker_state", fedmq_worker_state="training") == 1
    assert value(registry, "fedmq_worker_progress") == 0.25
    assert value(registry, "fedmq_worker_sent_bytes_total") == 1000
    assert value(registry, "fedmq_worker_train_seconds_sum") == 1.5
    assert value(registry, "fedmq_worker_rounds_left_total") == 1


def test_a_port_that_is_taken_is_one_clear_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        settings = ServiceSettings(metrics_port=taken.getsockname()[1])
        with (
            pytest.raises(SettingsError, match=r"cannot serve metrics at .*--metrics-port"),
            served(CollectorRegistry(), settings, Health(hung_after_s=3600)),
        ):
            pass


@pytest.mark.parametrize(
    ("settings", "wanted"),
    [
        ({"quorum": "8"}, 8),
        ({"quorum": "80%"}, 1),
        ({"quorum": "80%", "min_updates": 5}, 5),
        ({"quorum": "100%", "sample": "10x1.3"}, 13),
    ],
)
def test_how_many_workers_a_run_wants_does_not_depend_on_those_that_are_there(
    settings: dict[str, object], wanted: int, begin: Begin, tmp_path: Path
) -> None:
    """Else whoever scales workers by it would scale them down to what a share of fewer and fewer asks for."""
    metrics = AggregatorMetrics(tmp_path / "run")
    run = begin(StateTask(ZERO), rounds=3, on_event=metrics.on_event, **settings)
    assert value(metrics.registry, "fedmq_workers_wanted") == wanted
    run.announce("a")
    run.settle()
    assert value(metrics.registry, "fedmq_workers_wanted") == wanted


def test_a_run_that_is_over_or_led_by_another_wants_no_workers(begin: Begin, tmp_path: Path) -> None:
    metrics = AggregatorMetrics(tmp_path / "run")
    run = begin(StateTask(ZERO), rounds=1, quorum="2", on_event=metrics.on_event)
    assert value(metrics.registry, "fedmq_workers_wanted") == 2
    metrics.on_event(StandingBy(queue="updates"))
    assert value(metrics.registry, "fedmq_workers_wanted") == 0
    run.fold_all([("a", ONE), ("b", ONE)])
    assert run.aggregator.is_finished
    assert value(metrics.registry, "fedmq_workers_wanted") == 0
