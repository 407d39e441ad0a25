"""Secure aggregation in a simulation: everybody's keys in memory, the keepers in the aggregator's process."""

from simulation.secrecy.enrolled import enrolled
from simulation.secrecy.keeper_threads import KeeperThreads
from simulation.secrecy.keepers import opened_keepers
from simulation.secrecy.members import Secrecy, membership_in

__all__ = ["KeeperThreads", "Secrecy", "enrolled", "membership_in", "opened_keepers"]
