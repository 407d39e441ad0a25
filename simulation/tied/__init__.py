"""Processes that end with the simulation that started them, however that ends."""

from simulation.tied.ending import end_with

__all__ = ["end_with"]
