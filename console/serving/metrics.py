"""The address at which Prometheus reads a command's metrics."""

from collections.abc import Iterator
from contextlib import contextmanager

from prometheus_client import GCCollector, PlatformCollector, ProcessCollector, start_http_server
from prometheus_client.registry import CollectorRegistry

from console.errors import SettingsError
from console.settings import MetricsSettings


def new_registry() -> CollectorRegistry:
    """A registry with the metrics of this process: memory, CPU seconds, open files."""
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    PlatformCollector(registry=registry)
    GCCollector(registry=registry)
    return registry


@contextmanager
def served(registry: CollectorRegistry, settings: MetricsSettings) -> Iterator[None]:
    """Serves at ``--metrics-port`` inside the ``with``, from a thread of its own; without a port, does nothing.

    SettingsError if the port is not available.
    """
    if settings.metrics_port is None:
        yield
        return
    try:
        server, thread = start_http_server(settings.metrics_port, settings.metrics_host, registry)
    except OSError as error:
        where = f"{settings.metrics_host}:{settings.metrics_port}"
        raise SettingsError(
            f"cannot serve metrics at {where}: {error.strerror or error}; choose another --metrics-port"
        ) from error
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
