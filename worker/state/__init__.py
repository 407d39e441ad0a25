"""What stays at a site: what training carries on, which models the worker has seen, and the site's own results."""

from worker.state.carried import HOME, RESIDUAL, Carried, InMemory, OnDisk, Store
from worker.state.memory import Memory
from worker.state.own_noise import OwnNoise
from worker.state.own_results import OwnResults, save_model
from worker.state.positions import Positions

__all__ = [
    "HOME",
    "RESIDUAL",
    "Carried",
    "InMemory",
    "Memory",
    "OnDisk",
    "OwnNoise",
    "OwnResults",
    "Positions",
    "Store",
    "save_model",
]
