"""What a command serves over HTTP: its metrics, for Prometheus."""

from console.serving.metrics import new_registry, served

__all__ = ["new_registry", "served"]
