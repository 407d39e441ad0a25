"""The warning that the model runs away: when it comes, once, and when not."""

import math
from typing import Any

import pytest
from unit.aggregator.conftest import Begin
from unit.aggregator.embedded_run import StateTask, state_of

from aggregator.events import RoundClosed, SitesMeasured
from aggregator.watchers import Runaway

pytestmark = pytest.mark.timeout(60)


def told(caplog: pytest.LogCaptureFixture, *rows: dict[str, Any]) -> list[str]:
    """What is said after these rounds."""
    watcher = Runaway()
    for number, row in enumerate(rows, start=1):
        fields: dict[str, Any] = {"round": number, "metrics": {}, "worker_metrics": {}, "worker_medians": {}}
        watcher(RoundClosed(row=fields | row))
    return [record.getMessage() for record in caplog.records if record.name == "aggregator.watchers.runaway"]


def central(*losses: float) -> list[dict[str, Any]]:
    return [{"metrics": {"loss": loss}} for loss in losses]


def test_a_loss_of_many_times_the_first_one_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    assert told(caplog, *central(2.0, 1.0, 20.5, 400.0)) == [
        "round 3: loss is 20.5, and was 2 in round 1: the model runs away; lower --server-lr or --lr"
    ]


def test_a_loss_that_is_no_number_is_told(caplog: pytest.LogCaptureFixture) -> None:
    assert told(caplog, *central(2.0, math.nan)) == [
        "round 2: loss is no finite number: the model runs away; lower --server-lr or --lr"
    ]


@pytest.mark.parametrize(
    "rows",
    [
        central(2.0, 0.01, 0.5, 19.9),  # far above its best, and still no more than it began with
        [{"metrics": {"accuracy": value}} for value in (0.01, 0.9)],
        central(0.0, 5.0),
        central(-3.0, 40.0, 41.0),  # of what is no number above 0 nothing is many times
    ],
)
def test_what_varies_or_grows_for_the_better_is_not_told(
    rows: list[dict[str, Any]], caplog: pytest.LogCaptureFixture
) -> None:
    assert told(caplog, *rows) == []


def test_of_workers_the_median_counts_so_that_one_of_them_raises_no_alarm(caplog: pytest.LogCaptureFixture) -> None:
    def row(mean: float, median: tuple[float, float] | None) -> dict[str, Any]:
        return {"worker_metrics": {"train.loss": mean}, "worker_medians": {"train.loss": median}}

    assert told(caplog, row(1.0, (1.0, 1.0)), row(1e9, (0.5, 0.7))) == []
    assert "train.loss is no finite number" in told(caplog, row(1.0, (1.0, 1.0)), row(3.0, None))[0]


def test_a_run_whose_step_is_too_long_says_so_also_after_a_restart(
    begin: Begin, caplog: pytest.LogCaptureFixture
) -> None:
    run = begin(StateTask(state_of(w=[0.0])), server_lr=50.0, quorum="1", rounds=5)
    for loss in (1.5, 3.0):
        run.fold_all([("a", state_of(w=[1.0]))], train_metrics={"loss": loss})
    assert "runs away" not in caplog.text
    run = run.crash().start()
    run.fold_all([("a", state_of(w=[1.0]))], train_metrics={"loss": 90.0})
    assert "round 3: train.loss is 90, and was 1.5 in round 1: the model runs away" in caplog.text


def test_what_the_sites_measured_of_a_model_counts_too(caplog: pytest.LogCaptureFixture) -> None:
    watcher = Runaway()
    for number, loss in enumerate((1.0, 30.0), start=1):
        row = {"round": number, "metrics": {}, "worker_metrics": {"eval.loss": loss}, "worker_medians": {}}
        watcher(SitesMeasured(row=row))
    assert "round 2: eval.loss is 30" in caplog.text
