"""What the broker counts for a queue, and whether there is one."""

from pika.exceptions import ChannelClosedByBroker

from broker.rabbitmq.links import Link
from broker.transport import Queued

_NOT_FOUND = 404
COUNT_LAGS_S = 1.5
"""For up to a second, RabbitMQ may report a stream that holds messages as empty."""


def num_waiting(link: Link, name: str) -> int:
    """How many messages are in a queue; a channel error 404 if the queue is missing."""
    return queued(link, name).num_waiting


def queued(link: Link, name: str) -> Queued:
    found = link.channel("check").queue_declare(name, passive=True).method
    return Queued(int(found.message_count), int(found.consumer_count))


def is_there(link: Link, name: str) -> bool:
    try:
        num_waiting(link, name)
    except ChannelClosedByBroker as error:
        if error.reply_code != _NOT_FOUND:
            raise
        return False
    return True
