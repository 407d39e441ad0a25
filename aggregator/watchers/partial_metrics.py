"""A partial aggregator's metrics for Prometheus: for its own shard, counted since its start."""

from prometheus_client import Counter, Gauge, Histogram

from aggregator.events import (
    PartialEvent,
    ShardLed,
    ShardRoundOpened,
    StandingBy,
    SumDropped,
    SumSent,
    UpdatePassedOn,
    UpdateSummed,
)
from aggregator.watchers.metrics import SECONDS
from console.serving import new_registry


class PartialMetrics:
    """Takes events; ``registry`` has the resulting metrics. Each metric's help explains it."""

    def __init__(self) -> None:
        self.registry = registry = new_registry()
        self._leads = Gauge(
            "fedmq_leads", "1 while this aggregator leads its shard, 0 while it stands by", registry=registry
        )
        self._round = Gauge("fedmq_round", "number of the open round", registry=registry)
        self._summed = Gauge(
            "fedmq_partial_round_updates", "updates for the open round that are in a sum", registry=registry
        )
        self._passed_on = Counter(
            "fedmq_partial_passed_on", "updates passed on to the root unchanged", registry=registry
        )
        self._sums = Counter("fedmq_partial_sums", "sums sent to the root's queue", registry=registry)
        self._updates = Counter("fedmq_partial_updates", "updates in these sums", registry=registry)
        self._fold_s = Histogram(
            "fedmq_fold_seconds",
            "seconds to read an update's body and add it to the sum",
            buckets=SECONDS,
            registry=registry,
        )
        self._send_s = Histogram(
            "fedmq_partial_send_seconds", "seconds to send a sum", buckets=SECONDS, registry=registry
        )

    def on_event(self, event: PartialEvent) -> None:
        """Takes what happened."""
        match event:
            case StandingBy():
                self._leads.set(0)
            case ShardLed():
                self._leads.set(1)
            case ShardRoundOpened():
                self._round.set(event.round)
                self._summed.set(0)
            case UpdateSummed():
                self._summed.inc()
                self._fold_s.observe(event.fold_s)
            case SumDropped():
                self._summed.dec(event.num_updates)
            case UpdatePassedOn():
                self._passed_on.inc()
            case SumSent():
                self._sums.inc()
                self._updates.inc(event.num_updates)
                self._send_s.observe(event.seconds)
