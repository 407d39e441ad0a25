"""Secure aggregation in a simulation: everybody's keys in memory, the keepers in the aggregator's process."""

from simulation.secrecy.keepers import opened_keepers
from simulation.secrecy.members import Secrecy, membership_in

__all__ = ["Secrecy", "membership_in", "opened_keepers"]
