"""A message that kills whoever takes it is set aside after a bounded number of deaths; the others are not."""

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr
from unit.aggregator.embedded_run import StateTask, state_of

import aggregator.incoming.reception
from aggregator.rounds.intake import Expected, Update, read_update
from aggregator.service import Aggregator
from aggregator.settings import AggregatorSettings
from broker.connecting import connect
from broker.rabbitmq.properties import RETURNS_HEADER, durable
from broker.rabbitmq.transport import RabbitMQ
from broker.settings import BrokerSettings
from broker.states.tensors import chunks, digest_of, specs_of
from broker.transport import Delivery, Source
from broker.wire.codec import encode
from broker.wire.messages import UpdateHead
from broker.wire.topology import Topology, update_key

MOST_LIVES = 12
SOON_S = 20.0


class Death(BaseException):
    """Stands for a kill: nothing is committed, nothing is acked, the connection just ends."""


def test_what_kills_the_aggregator_again_and_again_is_set_aside_and_the_rest_is_folded(
    broker_url: str, queue: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def deadly(delivery: Delivery, expected: Expected, **given: Any) -> Update:
        if delivery.sender == "poison":
            raise Death
        return read_update(delivery, expected, **given)

    monkeypatch.setattr(aggregator.incoming.reception, "read_update", deadly)
    task = StateTask(state_of(weight=[1.0, 2.0]))
    settings = AggregatorSettings(
        broker=SecretStr(broker_url), queue=queue, state=tmp_path / "run", quorum="2", rounds=1, task="none"
    )
    lives = 0
    is_sent = False
    while True:
        lives += 1
        assert lives <= MOST_LIVES
        transport = connect(settings, role="aggregator")
        leader = Aggregator(settings.config, task, transport)
        try:
            leader.start()
            if not is_sent:
                for worker in ("poison", "good", "fine"):
                    transport.send(update_of(leader, worker), worker=worker)
                is_sent = True
            while not leader.is_finished:
                leader.step(SOON_S)
            break
        except Death:
            pass
        finally:
            leader.close()

    verdicts = dict(leader_rows(tmp_path / "run"))
    assert verdicts == {"poison": "refused", "good": "folded", "fine": "folded"}
    assert lives > 3


def test_how_often_a_sender_says_that_its_message_came_back_counts_for_nothing(broker_url: str, queue: str) -> None:
    """Each message that came back often costs the aggregator two writes to its disk."""
    settings = BrokerSettings(broker=SecretStr(broker_url), queue=queue)
    with closing(RabbitMQ(settings, role="aggregator")) as transport:
        transport.declare()
        transport.listen(Source.UPDATES)
        key, properties = update_key("mallory"), durable({RETURNS_HEADER: 7})
        transport._writer.call(
            lambda link: link.channel("publish").basic_publish(Topology(queue).inbound, key, b"garbage", properties)
        )
        returns = []
        for _ in range(2):
            delivery = transport.receive(SOON_S)
            assert delivery is not None
            returns.append(delivery.num_returns)
            transport.give_back()
    assert returns == [0, 1]


def update_of(leader: Aggregator, worker: str) -> bytes:
    delta = {name: tensor * 0 + 1 for name, tensor in leader._task.model().state_dict().items()}
    specs = specs_of(delta)
    head = UpdateHead(
        tensors=specs,
        sha256=digest_of(delta),
        run_id=leader._run.expected.run_id,
        worker=worker,
        instance="0" * 16,
        round=1,
        num_samples=1,
        train_s=0.0,
        sent_at=0.0,
    )
    return encode(head, b"".join(chunks(delta, specs)))


def leader_rows(folder: Path) -> list[tuple[str, str]]:
    with closing(sqlite3.connect(folder / "ledger.sqlite")) as ledger:
        return ledger.execute("SELECT worker, verdict FROM updates").fetchall()
