"""RabbitMQ over pika: the Transport, the dead letters, and who may do what. pika is used only here."""

from broker.rabbitmq import permissions
from broker.rabbitmq.dead_letters import ID_DIGITS, MAX_LIMIT, DeadLetters, Letter, Opened
from broker.rabbitmq.permissions import Permissions
from broker.rabbitmq.transport import RabbitMQ

__all__ = ["ID_DIGITS", "MAX_LIMIT", "DeadLetters", "Letter", "Opened", "Permissions", "RabbitMQ", "permissions"]
