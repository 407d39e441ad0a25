"""The worker's metrics for Prometheus."""

from collections.abc import Callable

from prometheus_client import Counter, Enum, Gauge, Histogram

from broker.wire import Presence
from console.serving import new_registry
from worker.events import Event, ModelReceived, RoundLeft, RoundTrained, StateChanged, UpdateSent

_SECONDS = (0.001, 0.005, 0.02, 0.1, 0.5, 2, 5, 10, 30, 60, 300, 1800, 7200)


class WorkerMetrics:
    """Counts events into ``registry``. ``presence`` has the training progress."""

    def __init__(self, presence: Callable[[], Presence]) -> None:
        self.registry = new_registry()
        registry = self.registry
        self._trained = Counter(
            "fedmq_worker_rounds_trained", "rounds for which this worker finished training", registry=registry
        )
        self._left = Counter(
            "fedmq_worker_rounds_left", "rounds that were over before, or where training failed", registry=registry
        )
        self._sent = Counter("fedmq_worker_updates_sent", "updates that the broker has", registry=registry)
        self._sent_bytes = Counter(
            "fedmq_worker_sent_bytes",
            "bytes of the updates that the broker has, before zstd if in blobs",
            registry=registry,
        )
        self._received_bytes = Counter("fedmq_worker_received_bytes", "bytes of the models received", registry=registry)
        self._round = Gauge("fedmq_worker_round", "round of the newest model received", registry=registry)
        self._samples = Gauge("fedmq_worker_samples", "samples that the last update was trained on", registry=registry)
        self._state = Enum(
            "fedmq_worker_state",
            "what the worker does",
            states=["idle", "training", "sending", "leaving"],
            registry=registry,
        )
        progress = Gauge("fedmq_worker_progress", "share of the local training that is done", registry=registry)
        progress.set_function(lambda: presence().progress)
        self._train_s = Histogram(
            "fedmq_worker_train_seconds", "seconds of training", buckets=_SECONDS, registry=registry
        )
        self._receive_s = Histogram(
            "fedmq_worker_receive_seconds", "seconds to read a model", buckets=_SECONDS, registry=registry
        )
        self._send_s = Histogram(
            "fedmq_worker_send_seconds", "seconds to send an update", buckets=_SECONDS, registry=registry
        )

    def on_event(self, event: Event) -> None:
        """Counts one event."""
        match event:
            case StateChanged():
                self._state.state(event.presence.state)
            case ModelReceived():
                self._round.set(event.head.round)
                self._received_bytes.inc(event.num_bytes)
                self._receive_s.observe(event.seconds)
            case RoundTrained():
                self._trained.inc()
                self._samples.set(event.num_samples)
                self._train_s.observe(event.train_s)
            case UpdateSent():
                self._sent.inc()
                self._sent_bytes.inc(event.num_bytes)
                self._send_s.observe(event.seconds)
            case RoundLeft():
                self._left.inc()
