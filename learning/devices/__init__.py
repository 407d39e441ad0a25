"""How a site's devices train: several of them together, and with the same bits each time."""

from learning.devices.determinism import deterministic
from learning.devices.parallel import Parallel, alone

__all__ = ["Parallel", "alone", "deterministic"]
