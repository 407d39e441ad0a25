"""A partial aggregator's metrics for Prometheus: of its own shard, counted since it was started."""

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
from console import new_registry


class PartialMetrics:
    """Takes events; ``registry`` has what came of them. Names and meanings are in each metric's own help."""

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
            "fedmq_partial_passed_on", "updates that went to the root as they came", registry=registry
        )
        self._sums = Counter("fedmq_partial_sums", "sums that the root's queue has", registry=registry)
        self._updates = Counter("fedmq_partial_updates", "updates in these sums", registry=registry)
        self._fold_s = Histogram(
            "fedmq_fold_seconds",
            "seconds of reading an update's body and adding it up",
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
