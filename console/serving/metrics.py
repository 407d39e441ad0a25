"""The address at which Prometheus reads a command's metrics, and probes learn how it is."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from prometheus_client import GCCollector, PlatformCollector, ProcessCollector, make_asgi_app
from prometheus_client.registry import CollectorRegistry

from console.serving.gate import Gate
from console.serving.health import Health, WithHealth
from console.serving.server import HttpServer, listening, warn_if_open
from console.settings import MetricsSettings


def new_registry() -> CollectorRegistry:
    """A registry with the metrics of this process: memory, CPU seconds, open files."""
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    PlatformCollector(registry=registry)
    GCCollector(registry=registry)
    return registry


@contextmanager
def served(registry: CollectorRegistry, settings: MetricsSettings, health: Health) -> Iterator[None]:
    """Serves both at ``--metrics-port`` inside the ``with``, from a thread of its own; without a port, does nothing.

    SettingsError if the port is not available.
    """
    if settings.metrics_port is None:
        yield
        return
    host = settings.metrics_host
    with listening(host, settings.metrics_port, what="metrics", port_flag="--metrics-port") as at:
        warn_if_open(settings, host=host, what="metrics")
        server = HttpServer(Gate(WithHealth(make_asgi_app(registry), health), settings, host=host))
        thread = threading.Thread(target=server.run, args=([at],), name="metrics", daemon=True)
        thread.start()
        try:
            yield
        finally:
            server.should_exit = True
            thread.join()
