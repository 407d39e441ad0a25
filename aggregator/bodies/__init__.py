"""Bodies of messages: in the message itself, or on their way from a blob until all of it is there."""

from aggregator.bodies.arrivals import Arrivals, Settled, WithBody
from aggregator.bodies.body import Body, InMessage
from aggregator.bodies.limits import BodyLimits

__all__ = ["Arrivals", "Body", "BodyLimits", "InMessage", "Settled", "WithBody"]
