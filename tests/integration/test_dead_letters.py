"""fl-dead on a real RabbitMQ: a look loses nothing, a replay is judged anew, a drop is for good."""

import io
import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime
from typing import Any

import pika
import pytest
import torch
from pika.adapters.blocking_connection import BlockingChannel
from rabbitmq_node import RabbitNode, wait_until

from broker.connecting import connect
from broker.rabbitmq.dead_letters import DeadLetters
from broker.rabbitmq.properties import SET_ASIDE_KEY
from broker.rabbitmq.queues import exchanges, queues
from broker.settings import BrokerSettings
from broker.states.tensors import chunks, digest_of, specs_of
from broker.transport import Delivery, Source
from broker.wire.codec import encode
from broker.wire.messages import BlobRef, UpdateHead
from broker.wire.topology import Topology, update_key
from console.errors import BrokerUnreachable, ExitCode, QueueMissing
from operations.dead_cli import main

SOON_S = 20.0
NOT_COMING_S = 0.3
STATE = {"fc.weight": torch.tensor([[0.5, -1.0]]), "fc.bias": torch.tensor([2.0])}


def update(worker: str = "site-a", *, round_number: int = 3, blob: str | None = None) -> bytes:
    """An update as a worker sends it; with ``blob``, its body is in a blob of that name."""
    specs = specs_of(STATE)
    head = UpdateHead(
        tensors=specs,
        sha256=digest_of(STATE),
        blob=BlobRef(name=blob, part_bytes=8) if blob else None,
        run_id="demo.0a1b2c3d",
        worker=worker,
        instance="0123456789abcdef",
        round=round_number,
        num_samples=120,
        train_s=1.5,
        sent_at=1.7e9,
        train_metrics={"loss": 0.25},
    )
    return encode(head, b"" if blob else b"".join(chunks(STATE, specs)))


class Wire:
    """One federation's queues, the aggregator's way of setting aside, and fl-dead."""

    def __init__(self, settings: BrokerSettings, channel: BlockingChannel, capsys: pytest.CaptureFixture[str]) -> None:
        self.settings = settings
        self.topology = Topology(settings.queue)
        self.channel = channel
        self._capsys = capsys

    def set_aside(self, body: bytes, reason: str = "update of another run", *, sender: str = "site-a") -> None:
        """What the aggregator does with an update that it refuses."""
        with closing(connect(self.settings, role="test")) as transport:
            transport.listen(Source.UPDATES)
            transport.send(body, worker=sender)
            delivery = transport.receive(SOON_S)
            assert delivery is not None
            transport.set_aside(delivery, reason)

    def put(self, body: bytes, headers: dict[str, Any] | None = None, *, timestamp: int | None = None) -> None:
        """A dead letter with these properties, as from an aggregator."""
        properties = pika.BasicProperties(headers=headers, timestamp=timestamp, delivery_mode=2)
        self.channel.basic_publish(self.topology.dead_letters, SET_ASIDE_KEY, body, properties, mandatory=True)

    def run(self, *argv: str, exit_code: ExitCode = ExitCode.OK) -> str:
        """What fl-dead prints for a person: its output, or its one line of error."""
        flags = ("--broker", self.settings.broker.get_secret_value(), "--queue", self.settings.queue)
        assert main([*argv, *flags, "--connect-timeout-s", "0"]) == exit_code
        printed = self._capsys.readouterr()
        return printed.out if exit_code == ExitCode.OK else printed.err

    def listed(self, *flags: str) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.run("list", "--json", *flags).splitlines()]

    def ids(self) -> list[str]:
        return [letter["id"] for letter in self.listed()]

    def updates(self) -> list[Delivery]:
        """What the aggregator receives now."""
        deliveries = []
        with closing(connect(self.settings, role="test")) as transport:
            transport.listen(Source.UPDATES)
            while delivery := transport.receive(NOT_COMING_S if deliveries else 1.0):
                deliveries.append(delivery)
            transport.ack(deliveries)
        return deliveries

    def num_of(self, queue: str) -> int:
        """How many messages are on a queue."""
        return int(self.channel.queue_declare(queue, passive=True).method.message_count)

    def make_blob(self, name: str) -> None:
        self.channel.queue_declare(name, durable=True, arguments={"x-queue-type": "stream"})

    def is_there(self, queue: str) -> bool:
        probe = self.channel.connection.channel()
        try:
            probe.queue_declare(queue, passive=True)
        except pika.exceptions.ChannelClosedByBroker:
            return False
        probe.close()
        return True


@pytest.fixture
def bare(broker_url: str, queue: str, capsys: pytest.CaptureFixture[str]) -> Iterator[Wire]:
    """A broker on which nobody has made the queues."""
    settings = BrokerSettings(broker=broker_url, queue=queue)  # type: ignore[arg-type]
    with pika.BlockingConnection(pika.URLParameters(broker_url)) as connection:
        channel = connection.channel()
        channel.confirm_delivery()
        yield Wire(settings, channel, capsys)
    with pika.BlockingConnection(pika.URLParameters(broker_url)) as connection:
        channel = connection.channel()
        for name in queues(Topology(queue)):
            channel.queue_delete(name)
        for name in exchanges(Topology(queue)):
            channel.exchange_delete(name)


@pytest.fixture
def wire(bare: Wire) -> Wire:
    """A broker with all queues."""
    with closing(connect(bare.settings, role="test")) as transport:
        transport.declare()
    return bare


@pytest.fixture
def answer(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Puts a person at a terminal, who types this."""

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    return lambda text: monkeypatch.setattr(sys, "stdin", Terminal(text))


# -- list ---------------------------------------------------------------------------------------------------


def test_an_empty_queue_is_said_to_be_empty(wire: Wire) -> None:
    for command in (["list"], ["replay", "--all"], ["drop", "--all", "--yes"]):
        assert wire.run(*command) == f"'{wire.topology.dead}' is empty\n"
    assert wire.run("list", "--json") == ""


def test_a_list_tells_worker_round_size_time_and_reason(wire: Wire) -> None:
    wire.set_aside(update("site-a"), "update of another run")
    wire.set_aside(b"garbage", "not a fedmq message", sender="site-b")
    first, second = wire.listed()
    assert (first["worker"], first["round"], first["num_bytes"]) == ("site-a", 3, len(update()))
    assert (second["worker"], second["round"], second["num_bytes"]) == ("site-b", None, 7)
    header, line, other = wire.run("list").splitlines()
    assert header.split() == ["id", "worker", "round", "size", "when", "reason"]
    assert line.startswith(first["id"])
    assert line.endswith("update of another run")
    assert "does not decode" in other
    assert line.index("update of") == other.index("not a fedmq") == header.index("reason")


def test_a_list_on_a_terminal_is_a_table(wire: Wire, monkeypatch: pytest.MonkeyPatch) -> None:
    wire.set_aside(update(), "[bold]not markup")
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "140")
    table = wire.run("list")
    assert "───" in table
    assert "[bold]not markup" in table


def test_the_time_is_that_of_the_timestamp_property(wire: Wire) -> None:
    wire.put(update(), {"reason": "r", "sender": "site-a"}, timestamp=1_700_000_000)
    wire.put(update(), {"reason": "s", "sender": "site-a"}, timestamp=2**63)
    with_time, with_nonsense = wire.listed()
    assert datetime.fromisoformat(with_time["set_aside_at"]) == datetime.fromtimestamp(1_700_000_000, UTC)
    assert with_nonsense["set_aside_at"] is None


def test_flags_may_stand_before_between_and_behind_the_words(wire: Wire) -> None:
    wire.set_aside(update())
    (letter_id,) = wire.ids()
    flags = ["--broker", wire.settings.broker.get_secret_value(), "--queue", wire.settings.queue]
    for argv in (["show", letter_id, *flags], [*flags, "show", letter_id], ["show", *flags, letter_id]):
        assert main(argv) == ExitCode.OK


def test_the_broker_may_come_from_the_environment(wire: Wire, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEDMQ_BROKER", wire.settings.broker.get_secret_value())
    assert main(["list", "--queue", wire.settings.queue]) == ExitCode.OK


# -- a look loses nothing -----------------------------------------------------------------------------------


def test_an_id_stays_the_same_however_often_one_looks(wire: Wire) -> None:
    wire.set_aside(update("site-a"))
    wire.set_aside(update("site-b"), sender="site-b")
    first = wire.ids()
    assert len(set(first)) == 2
    assert [wire.ids() for _ in range(3)] == [first] * 3


def test_looking_keeps_the_number_and_the_order_of_two_hundred(wire: Wire) -> None:
    for number in range(200):
        wire.put(b"%d" % number, {"reason": "r", "sender": "site-a"})
    order = wire.ids()
    assert len(order) == 200
    assert wire.ids() == order
    wire.run("show", order[50])
    assert wire.ids() == order
    wire.run("drop", order[70], "--yes")
    assert wire.ids() == order[:70] + order[71:]


def test_a_limit_bounds_the_look_and_says_how_many_are_left(wire: Wire, capsys: pytest.CaptureFixture[str]) -> None:
    for number in range(5):
        wire.put(b"%d" % number, {"reason": "r", "sender": "site-a"})
    flags = ("--broker", wire.settings.broker.get_secret_value(), "--queue", wire.settings.queue)
    assert main(["list", "--limit", "2", "--json", *flags]) == ExitCode.OK
    printed = capsys.readouterr()
    assert len(printed.out.splitlines()) == 2
    assert "3 more were not looked at" in printed.err
    assert len(wire.ids()) == 5


def test_a_look_that_breaks_off_loses_nothing(wire: Wire) -> None:
    for number in range(3):
        wire.put(b"%d" % number, {"reason": "r", "sender": "site-a"})

    def look_and_fail() -> None:
        with DeadLetters(wire.settings) as letters:
            next(letters.read(10))
            raise RuntimeError("in the middle")

    with pytest.raises(RuntimeError):
        look_and_fail()
    assert sorted(opened["num_bytes"] for opened in wire.listed()) == [1, 1, 1]


def test_a_look_whose_connection_is_lost_says_so_and_leaves_all_where_it_was(wire: Wire, node: RabbitNode) -> None:
    """It is not mended: over another connection the same letters would come a second time."""
    for number in range(3):
        wire.put(b"%d" % number, {"reason": "r", "sender": "site-a"})
    read = []

    def look() -> None:
        with DeadLetters(wire.settings) as letters:
            for opened in letters.read(10):
                read.append(opened.body)
                lose_connection(node, "dead letters")

    with pytest.raises(BrokerUnreachable, match="closed by the broker"):
        look()
    assert read == [b"0"]
    assert len(wire.ids()) == 3


def lose_connection(node: RabbitNode, name: str) -> None:
    """Has the broker close the connection of this name."""
    for line in node.ctl("list_connections", "pid", "client_properties").splitlines():
        pid, _, properties = line.partition("\t")
        if f'"{name}"' in properties:
            node.ctl("close_connection", pid, "for a test")


# -- show ---------------------------------------------------------------------------------------------------


def test_show_tells_the_header_and_the_tensors(wire: Wire) -> None:
    wire.set_aside(update(), "update for round 3, which is not open")
    shown = wire.run("show", *wire.ids())
    for text in ("site-a", "which is not open", "demo.0a1b2c3d", "120", "{'loss': 0.25}", "fc.weight  float32 [1, 2]"):
        assert text in shown


def test_show_gives_the_first_bytes_of_what_does_not_decode(wire: Wire) -> None:
    wire.set_aside(bytes(range(100)), "not a fedmq message")
    shown = wire.run("show", *wire.ids())
    assert "does not decode: not a fedmq message" in shown
    assert bytes(range(64)).hex(" ") in shown
    assert "3f 40" not in shown


def test_show_tells_whether_the_blob_is_there(wire: Wire) -> None:
    name = wire.topology.update_blob("site-a", "demo.0a1b2c3d", 3)
    wire.set_aside(update(blob=name))
    (letter_id,) = wire.ids()
    assert f"{name}, gone" in wire.run("show", letter_id)
    wire.make_blob(name)
    assert f"{name}, still there" in wire.run("show", letter_id)
    wire.run("drop", letter_id, "--yes")


def test_nothing_that_a_sender_wrote_reaches_the_terminal_as_a_control_character(wire: Wire) -> None:
    evil = "\x1b[2J\r\u202eevil\n"
    wire.put(b"x", {"reason": evil, "sender": evil})
    (letter_id,) = wire.ids()
    for command, escaped in (("list", "\\x1b[2J"), ("list --json", "\\u001b[2J"), (f"show {letter_id}", "\\x1b[2J")):
        printed = wire.run(*command.split())
        assert not {"\x1b", "\r", "\u202e"} & set(printed)
        assert escaped in printed
    assert len(wire.run("list").splitlines()) == 2


# -- replay -------------------------------------------------------------------------------------------------


def test_a_replayed_update_comes_to_the_aggregator_as_its_worker_sent_it(wire: Wire) -> None:
    wire.set_aside(update("site-a"))
    wire.set_aside(update("site-b"), sender="site-b")
    first, second = wire.ids()
    assert wire.run("replay", first) == "replayed 1 dead letter\n"
    (delivery,) = wire.updates()
    assert (delivery.body, delivery.sender) == (update("site-a"), "site-a")
    assert wire.ids() == [second]


def test_replay_all_of_one_worker_leaves_the_others(wire: Wire) -> None:
    for round_number in (1, 2):
        for worker in ("site-a", "site-b"):
            wire.set_aside(update(worker, round_number=round_number), sender=worker)
    assert wire.run("replay", "--all", "--worker", "site-b") == "replayed 2 dead letters\n"
    assert [delivery.sender for delivery in wire.updates()] == ["site-b", "site-b"]
    assert [letter["worker"] for letter in wire.listed()] == ["site-a", "site-a"]
    assert wire.run("replay", "--all", "--worker", "site-b").startswith("nothing from site-b")


def test_what_is_refused_again_can_be_replayed_again(wire: Wire) -> None:
    wire.set_aside(update(), "round not open")
    first = wire.ids()
    wire.run("replay", "--all")
    (delivery,) = wire.updates()
    wire.set_aside(bytes(delivery.body), "round not open", sender=delivery.sender)
    assert wire.ids() == first


def test_an_update_that_no_queue_takes_stays_a_dead_letter(wire: Wire) -> None:
    wire.set_aside(update())
    (letter_id,) = wire.ids()
    wire.channel.queue_delete(wire.topology.updates)
    assert "reached no queue" in wire.run("replay", letter_id, exit_code=ExitCode.UNREACHABLE)
    assert wire.ids() == [letter_id]


def test_what_was_delivered_too_often_is_listed_and_replayed_with_its_own_key(wire: Wire) -> None:
    limit = queues(wire.topology)[wire.topology.updates]["x-delivery-limit"]
    forged = pika.BasicProperties(headers={"sender": "site-b", "reason": "fine"}, delivery_mode=2)
    wire.channel.basic_publish(wire.topology.inbound, update_key("site-a"), update(), forged, mandatory=True)
    for method, _, _ in wire.channel.consume(wire.topology.updates, inactivity_timeout=NOT_COMING_S):
        if method is None:  # no further delivery
            break
        assert method.delivery_tag <= limit + 1
        wire.channel.basic_nack(method.delivery_tag, requeue=True)
    wire.channel.cancel()
    assert wait_until(lambda: wire.num_of(wire.topology.dead) == 1, timeout_s=SOON_S)
    (letter,) = wire.listed()
    assert letter["worker"] == "site-a"
    assert letter["reason"].startswith("delivered too often")
    assert abs(datetime.fromisoformat(letter["set_aside_at"]).timestamp() - time.time()) < 60
    wire.run("replay", letter["id"])
    (delivery,) = wire.updates()
    assert (delivery.body, delivery.sender) == (update(), "site-a")
    assert wire.ids() == []


def test_what_did_not_come_over_the_dead_letter_exchange_is_believed_in_nothing(wire: Wire) -> None:
    death = {"reason": "delivery_limit", "queue": wire.topology.updates, "routing-keys": [update_key("site-c")]}
    headers = {"reason": "r", "sender": "site-c", "x-death": [death]}
    properties = pika.BasicProperties(headers=headers, delivery_mode=2)
    wire.channel.basic_publish("", wire.topology.dead, update("site-c"), properties, mandatory=True)
    assert [letter["worker"] for letter in wire.listed()] == [None]
    assert "use `drop`" in wire.run("replay", "--all", exit_code=ExitCode.FAILED)
    assert wire.updates() == []


def test_a_letter_without_a_sender_can_only_be_dropped(wire: Wire) -> None:
    wire.put(b"who am I")
    wire.put(b"neither is this", {"sender": 7, "reason": ["x"], "x-death": "no list"})
    assert [letter["worker"] for letter in wire.listed()] == [None, None]
    assert "use `drop`" in wire.run("replay", "--all", exit_code=ExitCode.FAILED)
    wire.run("drop", "--all", "--yes")
    assert wire.ids() == []


# -- drop ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["", ".1"], ids=["", "under the next name"])
def test_drop_forgets_the_letter_and_its_blob(wire: Wire, suffix: str) -> None:
    name = wire.topology.update_blob("site-a", "demo.0a1b2c3d", 3) + suffix
    wire.make_blob(name)
    wire.set_aside(update(blob=name))
    wire.set_aside(b"garbage")
    first, second = wire.ids()
    assert wire.run("drop", first, "--yes") == "dropped 1 dead letter\n"
    assert wire.ids() == [second]
    assert not wire.is_there(name)
    assert wire.updates() == []


def test_drop_deletes_nothing_but_the_sender_s_own_blob(wire: Wire) -> None:
    others = [wire.topology.models, wire.topology.update_blob("site-b", "demo.0a1b2c3d", 3)]
    wire.make_blob(others[1])
    for name in others:
        wire.set_aside(update("site-a", blob=name), f"it names a blob that is not its own: {name}")
    wire.run("drop", "--all", "--yes")
    assert wire.ids() == []
    assert [wire.is_there(name) for name in others] == [True, True]
    wire.channel.queue_delete(others[1])


def test_drop_asks_at_a_terminal_and_drops_only_after_yes(wire: Wire, answer: Callable[[str], None]) -> None:
    wire.set_aside(update())
    for refusal in ("n\n", "\n", ""):
        answer(refusal)
        assert wire.run("drop", "--all").endswith("dropped nothing\n")
    assert len(wire.ids()) == 1
    answer("y\n")
    assert "drop 1 dead letter from site-a for good? [y/N]" in wire.run("drop", "--all")
    assert wire.ids() == []


def test_drop_without_a_terminal_needs_yes(wire: Wire, monkeypatch: pytest.MonkeyPatch) -> None:
    wire.set_aside(update())
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n"))
    assert "needs --yes" in wire.run("drop", "--all", exit_code=ExitCode.USAGE)
    assert len(wire.ids()) == 1


# -- errors -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", [["show"], ["replay"], ["drop", "--yes"]])
def test_an_unknown_id_is_one_line_and_nothing_is_done(wire: Wire, command: list[str]) -> None:
    wire.set_aside(update())
    known = wire.ids()
    ids = ["0123456789ab"] if command == ["show"] else [*known, "0123456789ab"]
    said = wire.run(*command, *ids, exit_code=ExitCode.FAILED)
    assert said == f"fl-dead: no dead letter 0123456789ab in '{wire.topology.dead}'\n"
    assert wire.ids() == known


def test_a_missing_queue_has_its_own_exit_code(bare: Wire) -> None:
    for command in (["list"], ["show", "0123456789ab"], ["replay", "--all"], ["drop", "--all", "--yes"]):
        said = bare.run(*command, exit_code=QueueMissing.exit_code)
        assert said.count("\n") == 1
        assert bare.topology.dead in said


def test_a_broker_that_is_not_there_is_unreachable(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FEDMQ_BROKER", "amqp://guest:secret@127.0.0.1:1/")
    assert main(["list", "--connect-timeout-s", "0"]) == ExitCode.UNREACHABLE
    said = capsys.readouterr().err
    assert said.startswith("fl-dead: no broker at amqp://guest@127.0.0.1:1/")
    assert "secret" not in said


@pytest.mark.parametrize(
    "argv",
    [
        ["list", "0123456789ab"],
        ["show"],
        ["show", "0123456789ab", "0123456789ab"],
        ["replay"],
        ["replay", "0123456789ab", "--all"],
        ["drop", "0123456789ab", "--worker", "site-a"],
        ["drop", "not-an-id"],
        ["burn", "--all"],
    ],
)
def test_arguments_that_make_no_sense_are_one_line(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(argv) == ExitCode.USAGE
    assert capsys.readouterr().err.count("\n") == 1
