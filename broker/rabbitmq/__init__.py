"""RabbitMQ over pika: the Transport, and the dead letters. pika is used only here."""

from broker.rabbitmq.dead_letters import ID_DIGITS, MAX_LIMIT, DeadLetters, Letter, Opened
from broker.rabbitmq.transport import RabbitMQ

__all__ = ["ID_DIGITS", "MAX_LIMIT", "DeadLetters", "Letter", "Opened", "RabbitMQ"]
