"""What stays at a site from round to round: what training carries on, and which models the worker has seen."""

from worker.state.carried import HOME, RESIDUAL, Carried, InMemory, OnDisk, Store
from worker.state.memory import Memory
from worker.state.positions import Positions

__all__ = [
    "HOME",
    "RESIDUAL",
    "Carried",
    "InMemory",
    "Memory",
    "OnDisk",
    "Positions",
    "Store",
]
