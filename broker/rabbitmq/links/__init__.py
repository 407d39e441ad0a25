"""Connections to RabbitMQ that come back: one thread each, at one node of a cluster after the other."""

from broker.rabbitmq.links.faults import Kind, of_channel
from broker.rabbitmq.links.link import Link
from broker.rabbitmq.links.turns import Turns

__all__ = ["Kind", "Link", "Turns", "of_channel"]
