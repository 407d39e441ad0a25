"""Connections to RabbitMQ that come back: one thread each, at one node of a cluster after the other."""

from broker.rabbitmq.links.link import Link
from broker.rabbitmq.links.turns import Turns

__all__ = ["Link", "Turns"]
