"""What a command serves over HTTP: its metrics for Prometheus, or a page; how it is; and who is answered."""

from console.serving.gate import Gate
from console.serving.health import ALIVE, READY, Health
from console.serving.metrics import new_registry, served
from console.serving.server import HttpServer, listening, warn_if_open

__all__ = [
    "ALIVE",
    "READY",
    "Gate",
    "Health",
    "HttpServer",
    "listening",
    "new_registry",
    "served",
    "warn_if_open",
]
