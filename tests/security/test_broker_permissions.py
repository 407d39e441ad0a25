"""What a stolen password cannot do at the broker: each attack by a user with the permissions that are printed."""

import json
import secrets
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import pika
import pytest
from broker_users import NOT_ON_A_STREAM, REFUSED, Users
from pika.adapters.blocking_connection import BlockingChannel
from rabbitmq_node import RabbitNode, wait_until

from broker.rabbitmq import permissions
from broker.rabbitmq.queues import BLOB
from broker.rabbitmq.transport import RabbitMQ
from broker.settings import BrokerSettings
from broker.transport import Delivery, Source
from broker.wire.topology import Topology
from console.errors import BlobLost
from operations.permissions import definitions

SOON_S = 20.0
NOT_COMING_S = 0.3
QUEUE = "updates"
TOPOLOGY = Topology(QUEUE, num_shards=2, keepers=("ethics-office", "other"))
INBOUND = TOPOLOGY.inbound
THEIRS = TOPOLOGY.update_blob("hospital-a", "demo.0a1b2c3d", 1)
"""A blob that is there; hospital-b is the attacker."""
THEIR_NEXT = TOPOLOGY.update_blob("hospital-a", "demo.0a1b2c3d", 2)
OWN = TOPOLOGY.update_blob("hospital-b", "demo.0a1b2c3d", 1)
MODEL = TOPOLOGY.model_blob("demo.0a1b2c3d", 1)

Attack = Callable[[BlockingChannel], object]
SIGNS = TOPOLOGY.presence_of("0123456789abcdef")
MAIN_QUEUES = (TOPOLOGY.updates, TOPOLOGY.models, TOPOLOGY.dead, SIGNS, TOPOLOGY.statuses)


@pytest.fixture(scope="module")
def users(node: RabbitNode) -> Iterator[Users]:
    """Everybody's users, the aggregator's queues, a model's blob and one of hospital-a's."""
    users = Users(node, QUEUE)
    with closing(join(users, "aggregator")) as aggregator:
        aggregator.declare()
        aggregator.write_blob(MODEL, [b"model"])
        with closing(join(users, "hospital-a")) as site:
            site.write_blob(THEIRS, [b"delta"])
        yield users
        aggregator.delete_blobs([MODEL, THEIRS, OWN])
        aggregator.remove()


def join(users: Users, name: str) -> RabbitMQ:
    settings = BrokerSettings.model_validate({"broker": users.url(name), "queue": QUEUE})
    return RabbitMQ(settings, role=name, topology=TOPOLOGY)


@pytest.fixture
def aggregator(users: Users) -> Iterator[RabbitMQ]:
    with closing(join(users, "aggregator")) as transport:
        transport.check()  # connected
        yield transport


def publish(exchange: str, key: str, **headers: Any) -> Attack:
    properties = pika.BasicProperties(headers={"part": 0, **headers}, delivery_mode=2)
    return lambda channel: channel.basic_publish(exchange, key, b"forged", properties, mandatory=True)


def declare(name: str, *, exclusive: bool = False, **arguments: Any) -> Attack:
    own = {argument.replace("_", "-"): value for argument, value in arguments.items()}
    return lambda channel: channel.queue_declare(name, durable=not exclusive, exclusive=exclusive, arguments=own)


def consume(name: str, *, exclusive: bool = False) -> Attack:
    def attack(channel: BlockingChannel) -> None:
        channel.basic_qos(prefetch_count=10)
        channel.basic_consume(name, lambda *delivery: None, exclusive=exclusive, arguments={"x-stream-offset": "first"})

    return attack


def spy(key: str) -> Attack:
    def attack(channel: BlockingChannel) -> None:
        channel.queue_declare(OWN, durable=True, arguments=BLOB)
        channel.queue_bind(OWN, INBOUND, key)

    return attack


def own_exchange(*, into: str, out_of: str, key: str = "update.hospital-a") -> Attack:
    """An exchange with a name of the attacker's own, bound to or behind another."""
    own = f"{OWN}.exchange"

    def attack(channel: BlockingChannel) -> None:
        channel.exchange_declare(own, exchange_type="fanout", durable=True)
        channel.exchange_bind(into or own, out_of or own, key)

    return attack


def alternate_exchange(channel: BlockingChannel) -> None:
    channel.exchange_declare(f"{OWN}.other", exchange_type="fanout", arguments={"alternate-exchange": INBOUND})


def dead_lettering(exchange: str, key: str) -> Attack:
    arguments = {"x_message_ttl": 0, "x_dead_letter_exchange": exchange, "x_dead_letter_routing_key": key}
    return declare(f"{OWN}.dying", **arguments)


ANOTHERS_BLOB = {
    "read it": consume(THEIRS),
    "delete it": lambda channel: channel.queue_delete(THEIRS),
    "purge it": lambda channel: channel.queue_purge(THEIRS),
    "append to it": publish(INBOUND, TOPOLOGY.blob_key(THEIRS)),
    "append to it through amq.default": publish("", THEIRS),
    "bind it to a key of one's own": lambda channel: channel.queue_bind(THEIRS, INBOUND, TOPOLOGY.blob_key(OWN)),
    "unbind it": lambda channel: channel.queue_unbind(THEIRS, INBOUND, TOPOLOGY.blob_key(THEIRS)),
    "declare the next beforehand": declare(THEIR_NEXT, x_queue_type="stream"),
    "hold the next exclusively": declare(THEIR_NEXT, exclusive=True),
    "append to a model's": publish(INBOUND, TOPOLOGY.blob_key(MODEL)),
    "append to a model's through amq.default": publish("", MODEL),
    "delete a model's": lambda channel: channel.queue_delete(MODEL),
    "hold a model's": declare(TOPOLOGY.model_blob("demo.0a1b2c3d", 2), exclusive=True),
}
ANOTHERS_NAME = {
    "a head through amq.default": publish("", TOPOLOGY.models),
    "an update through amq.default": publish("", TOPOLOGY.updates, CC=["update.hospital-a"]),
    "a status through amq.default": publish("", TOPOLOGY.statuses),
    "a sign of life through amq.default": publish("", SIGNS),
    "a dead letter through amq.default": publish("", TOPOLOGY.dead, sender="hospital-a"),
    "a dead letter through its exchange": publish(TOPOLOGY.dead_letters, "set-aside", sender="hospital-a"),
    "an update": publish(INBOUND, "update.hospital-a"),
    "an update to a shard": publish(INBOUND, "update.0.hospital-a"),
    "an update of an invented site": publish(INBOUND, "update.hospital-bb"),
    "an update of a site with the same beginning": publish(INBOUND, "update.hospital-b-1"),
    "a sign of life": publish(INBOUND, "presence.hospital-a"),
    "a partial sum": publish(INBOUND, "partial.0"),
    "a keeper's release": publish(INBOUND, "release.ethics-office"),
    "what the aggregator sets aside": publish(INBOUND, "set-aside"),
    "an exchange of one's own before the inbound one": own_exchange(into=INBOUND, out_of=""),
    "an exchange of one's own before the dead-letter one": own_exchange(into=TOPOLOGY.dead_letters, out_of=""),
    "an alternate exchange": alternate_exchange,
    "a queue that dead-letters into the inbound exchange": dead_lettering(INBOUND, "update.hospital-a"),
    "a queue that dead-letters into amq.default": dead_lettering("", TOPOLOGY.models),
    "a queue that dead-letters into the dead letters": dead_lettering(TOPOLOGY.dead_letters, "set-aside"),
}
OTHERS_MESSAGES = {
    **{f"bind a queue with {key}": spy(key) for key in ("#", "*.*", "update.*", "update.0.*", "blob.#", "partial.*")},
    "bind a queue with another's blob": spy("blob.update.hospital-a.#"),
    "bind a queue with a name like one's own": spy("blob.update.hospital-b*.#"),
    "bind an exchange with #": own_exchange(into="", out_of=INBOUND, key="#"),
    "bind an exchange to the dead letters": own_exchange(into="", out_of=TOPOLOGY.dead_letters),
    "receive from amq.default's queue": declare("spy"),
    "a queue that the broker names": declare("", exclusive=True),
}
MAIN = {
    **{f"get from {name}": (lambda channel, name=name: channel.basic_get(name)) for name in MAIN_QUEUES[:1]},
    **{f"purge {name}": (lambda channel, name=name: channel.queue_purge(name)) for name in MAIN_QUEUES},
    **{f"delete {name}": (lambda channel, name=name: channel.queue_delete(name)) for name in MAIN_QUEUES},
    **{f"consume {name}": consume(name) for name in MAIN_QUEUES if name != TOPOLOGY.models},
    **{f"bind {name}": (lambda channel, name=name: channel.queue_bind(name, INBOUND, "#")) for name in MAIN_QUEUES},
    **{f"unbind {name}": (lambda channel, name=name: channel.queue_unbind(name, INBOUND, "#")) for name in MAIN_QUEUES},
    **{
        f"delete {name}": (lambda channel, name=name: channel.exchange_delete(name))
        for name in (INBOUND, "updates.dlx")
    },
    "hold the lead": declare(TOPOLOGY.leader, exclusive=True),
    "hold a shard's lead": declare("updates.shard.0.leader", exclusive=True),
}
SITE_ATTACKS: dict[str, Attack] = ANOTHERS_BLOB | ANOTHERS_NAME | OTHERS_MESSAGES | MAIN


@pytest.mark.parametrize("attack", SITE_ATTACKS.values(), ids=SITE_ATTACKS)
def test_a_sites_password_is_refused(users: Users, attack: Attack) -> None:
    assert users.refusal_of("hospital-b", attack) in (REFUSED, NOT_ON_A_STREAM)


def test_the_definitions_that_are_printed_say_the_same_as_the_commands(users: Users) -> None:
    def permissions_now() -> list[str]:
        return [
            users.node.ctl(command, name, "--formatter", "json")
            for command in ("list_user_permissions", "list_user_topic_permissions")
            for name in ("hospital-c", "onlooker")
        ]

    before = permissions_now()
    file = users.node.folder / "definitions.json"
    for names, role in ((["hospital-c"], "worker"), (["onlooker"], "onlooker")):
        users.node.ctl("clear_permissions", *names)
        file.write_text(json.dumps(definitions(names, role, QUEUE)), encoding="utf-8")
        users.node.ctl("import_definitions", str(file))
    assert permissions_now() == before
    with closing(join(users, "hospital-c")) as site:
        site.check()


def test_it_is_the_missing_right_to_read_its_own_that_stops_a_site(users: Users) -> None:
    """With it, the broker would publish past the topic permission for whoever asks."""
    name = "hospital-b"
    own = permissions.worker(TOPOLOGY, name)
    users.node.ctl("set_permissions", name, own.configure, own.write, f"{own.read}|{own.configure}")
    try:
        with users.channel(name) as channel:
            own_exchange(into=INBOUND, out_of="")(channel)
            alternate_exchange(channel)
            dead_lettering(INBOUND, "update.hospital-a")(channel)
            channel.queue_delete(f"{OWN}.dying")
            for exchange in ("exchange", "other"):
                channel.exchange_delete(f"{OWN}.{exchange}")
    finally:
        users.node.ctl("set_permissions", name, own.configure, own.write, own.read)


ONLOOKER_ATTACKS: dict[str, tuple[Attack, int]] = {
    "take the status": (lambda channel: channel.basic_get(TOPOLOGY.statuses), NOT_ON_A_STREAM),
    "purge the status": (lambda channel: channel.queue_purge(TOPOLOGY.statuses), NOT_ON_A_STREAM),
    "delete the status": (lambda channel: channel.queue_delete(TOPOLOGY.statuses), REFUSED),
    "forge a status": (publish("", TOPOLOGY.statuses), REFUSED),
    "bind the status": (lambda channel: channel.queue_bind(TOPOLOGY.statuses, INBOUND, "#"), REFUSED),
    "read models": (consume(TOPOLOGY.models), REFUSED),
    "read a model's blob": (consume(MODEL), REFUSED),
    "read a site's blob": (consume(THEIRS), REFUSED),
    "take updates": (lambda channel: channel.basic_get(TOPOLOGY.updates), REFUSED),
    "read dead letters": (consume(TOPOLOGY.dead), REFUSED),
    "send an update": (publish(INBOUND, "update.onlooker"), REFUSED),
    "declare a queue": (declare("updates.blob.update.onlooker.x"), REFUSED),
}


@pytest.mark.parametrize(("attack", "code"), ONLOOKER_ATTACKS.values(), ids=ONLOOKER_ATTACKS)
def test_an_onlookers_password_is_refused_and_the_status_stays(
    users: Users, aggregator: RabbitMQ, attack: Attack, code: int
) -> None:
    said = secrets.token_bytes(8)
    aggregator.send_status(said)
    assert wait_until(lambda: aggregator.read_status() == said, timeout_s=SOON_S)
    refused = users.refusal_of("onlooker", attack)
    assert refused in (code, REFUSED)
    with closing(join(users, "onlooker")) as onlooker:
        assert onlooker.read_status() == said


OPERATOR_ATTACKS: dict[str, tuple[Attack, int]] = {
    "send an update": (publish(INBOUND, "update.hospital-a"), REFUSED),
    "send a sign of life": (publish(INBOUND, "presence.hospital-a"), REFUSED),
    "fill a blob": (publish(INBOUND, "blob.update.hospital-a.x"), REFUSED),
    "forge a status": (publish("", TOPOLOGY.statuses), REFUSED),
    "read models": (consume(TOPOLOGY.models), REFUSED),
    "take commands": (lambda channel: channel.basic_get(TOPOLOGY.commands), REFUSED),
    "purge commands": (lambda channel: channel.queue_purge(TOPOLOGY.commands), REFUSED),
    "delete commands": (lambda channel: channel.queue_delete(TOPOLOGY.commands), REFUSED),
    "take updates": (lambda channel: channel.basic_get(TOPOLOGY.updates), REFUSED),
    "declare a queue": (declare("updates.blob.update.operator.x"), REFUSED),
}


@pytest.mark.parametrize(("attack", "code"), OPERATOR_ATTACKS.values(), ids=OPERATOR_ATTACKS)
def test_an_operators_password_is_refused(users: Users, aggregator: RabbitMQ, attack: Attack, code: int) -> None:
    assert users.refusal_of("operator", attack) == code


def test_an_operator_asks_the_aggregator_and_nobody_else_does(users: Users, aggregator: RabbitMQ) -> None:
    aggregator.listen(Source.COMMANDS)
    with closing(join(users, "operator")) as operator:
        operator.send_command(b"pause")
    delivery = aggregator.receive(SOON_S)
    assert delivery is not None
    assert (delivery.source, delivery.body) == (Source.COMMANDS, b"pause")
    aggregator.ack([delivery])
    for name in ("hospital-a", "onlooker", "partial", "ethics-office"):
        assert users.refusal_of(name, publish(INBOUND, "command.run")) == REFUSED


@pytest.mark.parametrize("name", [TOPOLOGY.statuses, TOPOLOGY.models])
def test_who_asks_for_a_stream_alone_does_not_keep_others_from_it(
    users: Users, aggregator: RabbitMQ, name: str
) -> None:
    attacker, victim = ("onlooker", "onlooker") if name == TOPOLOGY.statuses else ("hospital-b", "hospital-a")
    with users.channel(attacker) as channel, closing(join(users, victim)) as reader:
        consume(name, exclusive=True)(channel)
        said = secrets.token_bytes(8)
        if name == TOPOLOGY.statuses:
            aggregator.send_status(said)
            assert wait_until(lambda: reader.read_status() == said, timeout_s=SOON_S)
        else:
            aggregator.broadcast(said)
            reader.listen(Source.MODELS)
            delivery = reader.receive(SOON_S)
            assert delivery is not None
            assert delivery.body == said


PARTIAL_ATTACKS = {
    "write a head": publish("", TOPOLOGY.models),
    "write another partial's sum": publish(INBOUND, "partial.x"),
    "plant a dead letter": publish(TOPOLOGY.dead_letters, "set-aside", sender="hospital-a"),
    "fill a model's blob": publish(INBOUND, TOPOLOGY.blob_key(MODEL)),
    "fill a site's blob": publish(INBOUND, TOPOLOGY.blob_key(THEIRS)),
    "take the root's updates": consume(TOPOLOGY.updates),
    "delete the models": lambda channel: channel.queue_delete(TOPOLOGY.models),
    "hold the root's lead": declare(TOPOLOGY.leader, exclusive=True),
    "send a keeper's release": publish(INBOUND, "release.ethics-office"),
}


@pytest.mark.parametrize("attack", PARTIAL_ATTACKS.values(), ids=PARTIAL_ATTACKS)
def test_a_partial_aggregators_password_is_refused(users: Users, attack: Attack) -> None:
    assert users.refusal_of("partial", attack) == REFUSED


KEEPER_ATTACKS = {
    "send an update": publish(INBOUND, "update.hospital-a"),
    "send another keeper's release": publish(INBOUND, "release.hospital-a"),
    "read models": consume(TOPOLOGY.models),
    "take what another keeper is asked": consume(TOPOLOGY.requests_of("other")),
    "ask a keeper": publish(INBOUND, "keeper.ethics-office"),
    "hold the root's lead": declare(TOPOLOGY.leader, exclusive=True),
    "read a site's blob": consume(THEIRS),
    "write a head": publish("", TOPOLOGY.models),
}


@pytest.mark.parametrize("attack", KEEPER_ATTACKS.values(), ids=KEEPER_ATTACKS)
def test_a_keepers_password_is_refused(users: Users, attack: Attack) -> None:
    assert users.refusal_of("ethics-office", attack) == REFUSED


# -- what RabbitMQ 3.10 allows, and nobody believes: 4.0 refuses copies with a key that the user may not use -----------


@pytest.mark.parametrize("header", ["CC", "BCC"])
@pytest.mark.parametrize("shard", ["", "0."], ids=["to the root", "to a shard"])
@pytest.mark.parametrize("key", ["update.hospital-b", "presence.hospital-b", TOPOLOGY.blob_key(OWN)])
def test_an_update_with_anothers_key_in_a_copy_header_is_the_attackers(
    users: Users, aggregator: RabbitMQ, key: str, header: str, shard: str
) -> None:
    attack = publish(INBOUND, key, **{header: [f"update.{shard}hospital-a", "partial.0"]})
    if not users.allows("hospital-b", attack):
        return
    aggregator.listen(Source.UPDATES)
    delivery = aggregator.receive(SOON_S)
    assert delivery is not None
    assert (delivery.body, delivery.sender, delivery.shard) == (b"forged", "hospital-b", None)
    aggregator.ack([delivery])
    assert aggregator.receive(NOT_COMING_S) is None
    if shard:
        with closing(RabbitMQ(aggregator._settings, role="partial", topology=Topology(QUEUE, shard=0))) as partial:
            partial.listen(Source.UPDATES)
            delivery = partial.receive(SOON_S)
            assert delivery is not None
            assert delivery.sender == "hospital-b"
            partial.ack([delivery])


@pytest.mark.parametrize("header", ["CC", "BCC"])
def test_a_part_with_anothers_key_in_a_copy_header_is_no_part(users: Users, aggregator: RabbitMQ, header: str) -> None:
    attack = publish(INBOUND, "presence.hospital-b", **{header: [TOPOLOGY.blob_key(THEIR_NEXT)]})
    with closing(join(users, "hospital-a")) as site:
        upload = site.open_blob(THEIR_NEXT)
        for _ in range(5):
            users.allows("hospital-b", attack)
        upload.write(b"genuine")
        upload.write(b"parts")
        name = upload.finish()
    aggregator.listen(Source.PRESENCE)
    assert [bytes(part) for part in aggregator.read_blob(name, 2)] == [b"genuine", b"parts"]
    aggregator.delete_blobs([name])


def test_a_blob_that_an_earlier_version_filled_through_amq_default_is_read(users: Users, aggregator: RabbitMQ) -> None:
    """No site's user may, any more."""
    with users.channel("aggregator") as channel:
        channel.queue_declare(OWN, durable=True, arguments=BLOB)
        publish("", OWN)(channel)
    aggregator.listen(Source.PRESENCE)
    assert [bytes(part) for part in aggregator.read_blob(OWN, 1)] == [b"forged"]
    aggregator.delete_blobs([OWN])


def test_the_aggregators_user_may_make_the_queue_of_its_own_through_which_signs_of_life_come(
    users: Users, aggregator: RabbitMQ
) -> None:
    arrived = []

    def arrives() -> bool:
        site.announce(b"here", worker="hospital-b")
        arrived.append(aggregator.receive(NOT_COMING_S))
        return arrived[-1] is not None

    aggregator.listen(Source.PRESENCE)
    with closing(join(users, "hospital-b")) as site:
        assert wait_until(arrives, timeout_s=SOON_S)
    assert arrived[-1] == Delivery(Source.PRESENCE, b"here", "hospital-b")


def test_a_line_break_behind_ones_own_name_is_another_name(users: Users, aggregator: RabbitMQ) -> None:
    """RabbitMQ's ``$`` also matches before one."""
    with users.channel("hospital-b") as channel:
        publish(INBOUND, "update.hospital-b\n")(channel)
    aggregator.listen(Source.UPDATES)
    delivery = aggregator.receive(SOON_S)
    assert delivery is not None
    assert delivery.sender == "hospital-b\n"
    aggregator.ack([delivery])


NO_STREAMS: dict[str, Attack] = {
    "held exclusively": declare(OWN, exclusive=True),
    "a classic queue": declare(OWN),
    "a quorum queue": declare(OWN, x_queue_type="quorum"),
    "not there": lambda channel: channel.queue_delete(OWN),
}


@pytest.mark.parametrize("make", NO_STREAMS.values(), ids=NO_STREAMS)
def test_a_blob_that_is_no_stream_is_lost_and_the_aggregator_goes_on(
    users: Users, aggregator: RabbitMQ, make: Attack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("broker.rabbitmq.transport._BLOB_STALL_S", NOT_COMING_S)
    with users.channel("hospital-b") as channel:
        channel.queue_delete(OWN)
        make(channel)
        aggregator.listen(Source.PRESENCE)
        with pytest.raises(BlobLost):
            list(aggregator.read_blob(OWN, 1))
        aggregator.delete_blobs([OWN])
    aggregator.broadcast(b"goes on")
    assert aggregator.newest_head() == b"goes on"


def test_a_name_that_another_connection_holds_makes_a_worker_take_the_next(users: Users, aggregator: RabbitMQ) -> None:
    with users.channel("hospital-b") as channel, closing(join(users, "hospital-b")) as site:
        declare(OWN, exclusive=True)(channel)
        name = site.write_blob(OWN, [b"one", b"two"])
        assert name == f"{OWN}.1"
        aggregator.listen(Source.PRESENCE)
        assert [bytes(part) for part in aggregator.read_blob(name, 2)] == [b"one", b"two"]
        aggregator.delete_blobs([OWN, name])
