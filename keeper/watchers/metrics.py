"""A keeper's metrics for Prometheus."""

from prometheus_client import Counter, Gauge, Histogram

from console.serving import new_registry
from keeper.events import Charged, Event, Expanded, Released, Serving, StandingBy, Withholding

_SECONDS = (0.001, 0.01, 0.1, 0.5, 1, 2, 5, 10, 30, 60, 300, 1800)


class KeeperMetrics:
    """Takes events; ``registry`` has the resulting metrics. Each metric's help explains it."""

    def __init__(self) -> None:
        self.registry = registry = new_registry()
        self._leads = Gauge("fedmq_leads", "1 while this process answers, 0 while it stands by", registry=registry)
        self._round = Gauge("fedmq_keeper_round", "round that was asked about last", registry=registry)
        self._released = Counter(
            "fedmq_keeper_released", "sums of masks given for the first time, since the start", registry=registry
        )
        self._repeated = Counter(
            "fedmq_keeper_repeated", "sums given once more, since the aggregator asked again", registry=registry
        )
        self._refused = Counter("fedmq_keeper_refused", "requests and offers refused", registry=registry)
        self._masks = Gauge("fedmq_keeper_masks", "masks in the sum that was worked on last", registry=registry)
        self._sites = Gauge("fedmq_keeper_sites", "sites in the sum that was given last", registry=registry)
        self._epsilon = Gauge("fedmq_keeper_epsilon", "epsilon of all sums with noise so far", registry=registry)
        self._left = Gauge("fedmq_keeper_releases_left", "sums that the budget allows for", registry=registry)
        self._answer_s = Histogram(
            "fedmq_keeper_answer_seconds",
            "seconds from a request to the confirmed answer",
            buckets=_SECONDS,
            registry=registry,
        )

    def on_event(self, event: Event) -> None:
        """Takes what happened."""
        match event:
            case StandingBy():
                self._leads.set(0)
            case Serving():
                self._leads.set(1)
            case Expanded():
                self._round.set(event.round)
                self._masks.set(event.num_masks)
            case Released():
                (self._repeated if event.is_repeat else self._released).inc()
                self._round.set(event.round)
                self._masks.set(event.num_updates)
                self._sites.set(event.num_sites)
                self._answer_s.observe(event.seconds)
            case Withholding():
                self._refused.inc()
            case Charged():
                self._epsilon.set(event.epsilon)
                self._left.set(event.releases_left)
