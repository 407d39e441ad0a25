"""What masked updates do not say of their sites is shown nowhere as if they had said it."""

import sqlite3
from pathlib import Path

import pytest
from masked_run import MaskedRun
from test_masked_rounds import DELTAS, INITIAL, WEIGHTS, assert_is_mean, send_all
from unit.aggregator.embedded_run import INSTANCE

from aggregator.events import Event, UpdateDecided
from aggregator.history import History
from aggregator.watchers.metrics import AggregatorMetrics
from broker.wire import encode
from broker.wire.messages import Reply


def test_log_and_metrics_count_no_samples_and_no_seconds(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    metrics, events = AggregatorMetrics(tmp_path), list[Event]()
    masked = MaskedRun.make(
        tmp_path, INITIAL, on_event=lambda event: (metrics.on_event(event), events.append(event))[1]
    ).start()
    send_all(masked)
    masked.answer_all()
    lines = [line for line in caplog.messages if "←" in line]
    assert len(lines) == 3
    assert all("MB, which say nothing of its site  folded" in line for line in lines)
    assert metrics.registry.get_sample_value("fedmq_train_seconds_count") == 0
    assert metrics.registry.get_sample_value("fedmq_queue_seconds_count") == 3
    told = [(event.row.num_samples, event.row.train_s) for event in events if isinstance(event, UpdateDecided)]
    assert told == [(None, None)] * 3


def test_an_answer_without_an_update_is_still_told_from_an_update_that_says_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    masked = MaskedRun.make(tmp_path, INITIAL).start()
    head = masked.head
    answer = Reply(
        run_id=head.run_id,
        worker="hospital-a",
        instance=INSTANCE,
        round=1,
        model_sha256=head.sha256,
        outcome="diverged",
        reason="no data today",
        sent_at=1.0,
    )
    masked.run.site.send(encode(answer, trust=masked.federation.trust("hospital-a")), worker="hospital-a")
    masked.run.settle()
    assert any("hospital-a       no update  no data today" in line for line in caplog.messages)
    masked.run.aggregator.stop()
    masked.run.aggregator.run()
    assert masked.run.query("SELECT verdict, train_s FROM updates") == [("diverged", None)]


def test_a_round_that_goes_on_after_a_kill_has_the_same_mean(tmp_path: Path) -> None:
    masked = MaskedRun.make(tmp_path, INITIAL).start()
    first, *others = DELTAS
    masked.send(first, DELTAS[first], weight=WEIGHTS[first])
    masked.run.aggregator._current.commit()
    masked = masked.crash()
    for site in others:
        masked.send(site, DELTAS[site], weight=WEIGHTS[site])
    masked.answer_all()
    assert_is_mean(masked.run.model)


def test_a_ledger_of_before_is_read_as_one_that_says_nothing(tmp_path: Path) -> None:
    masked = MaskedRun.make(tmp_path, INITIAL, weighting="uniform").start()
    send_all(masked)
    masked.answer_all()
    with sqlite3.connect(tmp_path / "ledger.sqlite") as ledger:
        ledger.execute("UPDATE updates SET num_samples = 1, train_s = 0.0")
        ledger.execute("UPDATE rounds SET num_samples = 0 WHERE closed_by IS NOT NULL")
    with History(tmp_path) as history:
        assert {(row["num_samples"], row["train_s"]) for row in history.updates()} == {(None, None)}
        assert {(row["num_samples"], row["mean_train_s"]) for row in history.contributions()} == {(None, None)}
        assert [row["num_samples"] for row in history.rounds()] == [None]
    masked = masked.crash()
    send_all(masked)
    masked.answer_all()
    assert masked.head.round == 3
