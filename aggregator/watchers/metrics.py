"""The aggregator's metrics for Prometheus. Rounds, updates and bytes are counted from the ledger itself."""

import threading
from collections.abc import Iterator, Mapping
from pathlib import Path

from prometheus_client import Gauge, Histogram
from prometheus_client.core import CounterMetricFamily, Metric
from prometheus_client.registry import Collector, CollectorRegistry

from aggregator.events import (
    Committed,
    Event,
    LastEvaluationOpened,
    RoundClosed,
    RoundMoved,
    RoundOpened,
    RunEnded,
    RunOpened,
    SitesMeasured,
    StandingBy,
    UpdateDecided,
)
from aggregator.history import History
from aggregator.state import Verdict, recorded_metrics
from console import StateError
from console.serving import new_registry

SECONDS = (0.001, 0.005, 0.02, 0.1, 0.5, 2, 5, 10, 30, 60, 300, 1800, 7200)
_ROUNDS_LATE = (0, 1, 2, 3, 5, 10, 20)
_MOST_METRICS = 64


class AggregatorMetrics:
    """Takes events; ``registry`` has the resulting metrics. Each metric's help explains it."""

    def __init__(self, state: Path) -> None:
        self.registry = new_registry()
        self.registry.register(_OfLedger(state))
        registry = self.registry
        self._leads = Gauge(
            "fedmq_leads", "1 while this aggregator leads the run, 0 while it stands by", registry=registry
        )
        self._round = Gauge("fedmq_round", "number of the open round", registry=registry)
        self._target = Gauge("fedmq_round_target_updates", "updates that close the open round", registry=registry)
        self._folded = Gauge("fedmq_round_folded_updates", "updates folded in the open round", registry=registry)
        self._present = Gauge(
            "fedmq_workers_present",
            "workers present: heard from within 3.5 times the interval of their signs of life (35 s by default)",
            registry=registry,
        )
        self._wanted = Gauge(
            "fedmq_workers_wanted",
            "workers that the run wants to be there: its quorum as a count, its floor or its sample, whichever is most;"
            " 0 while it is paused, when it is over, and while this aggregator stands by",
            registry=registry,
        )
        self._metric = Gauge(
            "fedmq_metric",
            "the newest metrics: the central ones, and the workers' as train.* and, of the model before, eval.*",
            ["name"],
            registry=registry,
        )
        self._metrics: dict[str, float] = {}
        self._round_s = _seconds("fedmq_round_seconds", "from a round's model to the round's end", self.registry)
        self._train_s = _seconds("fedmq_train_seconds", "training of one update, as its worker reports", self.registry)
        self._queue_s = _seconds(
            "fedmq_queue_seconds", "from sending an update to folding it, by two machines' clocks", self.registry
        )
        self._epsilon = Gauge(
            "fedmq_privacy_epsilon",
            "what the models so far have cost of the privacy budget, for one worker zeroed out or not",
            ["delta"],
            registry=registry,
        )
        self._fold_s = _seconds("fedmq_fold_seconds", "reading an update's body and adding it up", self.registry)
        self._commit_s = _seconds("fedmq_commit_seconds", "writing the sum and the ledger to the disk", self.registry)
        self._staleness = Histogram(
            "fedmq_staleness_rounds", "staleness of committed updates", buckets=_ROUNDS_LATE, registry=registry
        )

    def on_event(self, event: Event) -> None:
        """Takes what happened."""
        match event:
            case StandingBy():
                self._leads.set(0)
                self._wanted.set(0)
            case RunOpened():
                self._leads.set(1)
            case RoundOpened():
                self._round.set(event.round)
            case RoundMoved():
                self._target.set(event.target)
                self._folded.set(event.num_folded)
                self._present.set(event.num_present)
                self._wanted.set(event.num_wanted)
            case LastEvaluationOpened():
                self._wanted.set(event.num_wanted)
            case RunEnded():
                self._wanted.set(0)
            case UpdateDecided() if event.fold_s is not None:
                self._fold_s.observe(event.fold_s)
            case Committed():
                self._on_commit(event)
            case RoundClosed():
                self._on_round(event)
            case SitesMeasured():
                self._show(event.row["worker_metrics"])

    def _on_commit(self, event: Committed) -> None:
        self._commit_s.observe(event.seconds)
        for row in event.rows:
            if row.train_s is not None:
                self._train_s.observe(row.train_s)
            if row.queue_s is not None:
                self._queue_s.observe(row.queue_s)
            if row.staleness is not None and row.verdict is Verdict.FOLDED:
                self._staleness.observe(row.staleness)

    def _on_round(self, event: RoundClosed) -> None:
        self._round_s.observe(event.row["seconds"])
        self._show({**recorded_metrics(event.row), **event.row["worker_metrics"]})
        noise = event.row["privacy"].get("noise")
        if noise is not None:
            self._epsilon.labels(f"{noise['delta']:g}").set(noise["epsilon"])

    def _show(self, metrics: Mapping[str, float]) -> None:
        """What has no newer value stays: the sites measure a model one round after the aggregator has."""
        self._metrics |= metrics
        for name in sorted(self._metrics)[:_MOST_METRICS]:
            self._metric.labels(name).set(self._metrics[name])


def _seconds(name: str, help: str, registry: CollectorRegistry) -> Histogram:
    return Histogram(name, f"seconds {help}", buckets=SECONDS, registry=registry)


class _OfLedger(Collector):
    """Counts rounds, updates and bytes in the ledger: on request, if it has changed since.

    So the counts equal the ledger even after a kill, or when another aggregator led meanwhile. An update whose verdict
    changes (to ``abandoned``) is counted anew.
    """

    def __init__(self, state: Path) -> None:
        self._state = state
        self._lock = threading.Lock()
        self._history: History | None = None
        self._version: object = None
        self._totals: dict[str, dict[str, int]] = {}

    def describe(self) -> Iterator[Metric]:
        return self._families({})

    def collect(self) -> Iterator[Metric]:
        with self._lock:
            try:
                self._history = self._history or History(self._state)
                version = self._history.version()
                if version != self._version:
                    self._totals, self._version = self._history.totals(), version
            except StateError:  # no round has begun
                pass
            return self._families(self._totals)

    def _families(self, totals: dict[str, dict[str, int]]) -> Iterator[Metric]:
        for name, help, label, key in (
            ("fedmq_rounds", "rounds in the ledger, by what closed them", "closed_by", "rounds"),
            ("fedmq_updates", "updates in the ledger, by verdict", "verdict", "updates"),
            ("fedmq_update_bytes", "bytes received of the updates in the ledger, by verdict", "verdict", "bytes"),
        ):
            family = CounterMetricFamily(name, help, labels=[label])
            for value, number in totals.get(key, {}).items():
                family.add_metric([value], number)
            yield family
