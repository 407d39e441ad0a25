"""The broker sends signs of life as fast as they come; what waits of them in an aggregator is bounded."""

from contextlib import closing

from rabbitmq_node import wait_until

from broker.rabbitmq.transport import RabbitMQ
from broker.settings import BrokerSettings
from broker.transport import Source


def test_a_flood_of_one_sender_waits_as_a_few_signs_of_life_and_none_is_huge(broker_url: str, queue: str) -> None:
    settings = BrokerSettings(broker=broker_url, queue=queue)
    with (
        closing(RabbitMQ(settings, role="aggregator")) as aggregator,
        closing(RabbitMQ(settings, role="attacker")) as attacker,
    ):
        aggregator.declare()
        aggregator.listen(Source.PRESENCE)
        assert wait_until(lambda: _arrives(attacker, aggregator), timeout_s=20)
        attacker.announce(bytes(10 * 2**20), worker="huge")
        for _ in range(1000):
            attacker.announce(b"a sign of life", worker="mallory")
        attacker.announce(b"another", worker="honest")
        assert wait_until(lambda: aggregator._signs.num_waiting("honest") == 1, timeout_s=20)
        senders = []
        while (delivery := aggregator.receive(0)) is not None:
            senders.append(delivery.sender)
        assert senders == ["mallory"] * 10 + ["honest"]
        attacker.announce(b"later", worker="mallory")
        later = aggregator.receive(20)
        assert later is not None
        assert later.sender == "mallory"


def _arrives(sender: RabbitMQ, aggregator: RabbitMQ) -> bool:
    sender.announce(b"first", worker="early")
    return aggregator.receive(0.3) is not None
