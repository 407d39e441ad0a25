"""One suite for both transports: whatever holds for RabbitMQ holds for the embedded broker."""

import secrets
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from rabbitmq_node import wait_until

from broker.memory import MemoryBroker, MemoryTransport
from broker.rabbitmq.queues import queues
from broker.rabbitmq.transport import RabbitMQ
from broker.settings import BrokerSettings
from broker.transport import BlobNews, Delivery, Queued, Source, Transport
from broker.wire import zstd
from broker.wire.messages import MAX_PART_BYTES
from broker.wire.topology import Topology, shard_of
from console.errors import BlobLost, QueueMissing

Join = Callable[..., Transport]
"""Without arguments, or with those of a topology: ``num_shards``, ``shard``, ``keepers``, ``keeper``."""
SOON_S = 20.0
NOT_COMING_S = 0.3


@pytest.fixture(params=["memory", "rabbitmq"])
def join(request: pytest.FixtureRequest) -> Iterator[Join]:
    """Makes transports that all belong to one federation, whose queues are not declared yet."""
    joined: list[Transport] = []
    if request.param == "memory":
        broker = MemoryBroker()

        def make(topology: Topology) -> Transport:
            return MemoryTransport(broker, shard=topology.shard, keeper=topology.keeper, queue=topology.queue)
    else:
        settings = BrokerSettings(broker=request.getfixturevalue("broker_url"), queue=request.getfixturevalue("queue"))

        def make(topology: Topology) -> Transport:
            return RabbitMQ(settings, role="test", topology=topology)

    queue = request.getfixturevalue("queue")

    def join(**names: Any) -> Transport:
        joined.append(make(Topology(queue, **names)))
        return joined[-1]

    yield join
    for transport in joined:
        transport.close()


@pytest.fixture
def aggregator(join: Join) -> Transport:
    transport = join()
    transport.declare()
    return transport


@pytest.fixture
def worker(join: Join, aggregator: Transport) -> Transport:
    return join()


def expect(transport: Transport) -> Delivery:
    delivery = transport.receive(SOON_S)
    assert delivery is not None
    return delivery


def test_check_finds_the_queue_only_when_it_was_declared(join: Join) -> None:
    transport = join()
    with pytest.raises(QueueMissing):
        transport.check()
    transport.declare()
    transport.check()


def test_what_is_removed_is_gone_with_all_that_was_in_it(aggregator: Transport, join: Join, queue: str) -> None:
    topology = Topology(queue)
    aggregator.listen(Source.UPDATES)
    for body in (b"refused", b"received", b"waiting"):
        aggregator.send(body, worker="a")
    aggregator.set_aside(expect(aggregator), "no reason")
    expect(aggregator)
    aggregator.broadcast(b"head")

    aggregator.remove()

    successor = join()
    with pytest.raises(QueueMissing):
        successor.check()
    aggregator.close()
    successor.declare()
    assert successor.newest_head() is None
    assert successor.queued([topology.updates, topology.dead]) == {
        topology.updates: Queued(0, 0),
        topology.dead: Queued(0, 0),
    }
    successor.listen(Source.MODELS, Source.UPDATES)
    assert successor.receive(NOT_COMING_S) is None


def test_a_queue_that_was_removed_can_be_made_anew_and_used(aggregator: Transport, worker: Transport) -> None:
    worker.listen(Source.MODELS)
    aggregator.broadcast(b"before")
    assert expect(worker).body == b"before"
    aggregator.remove()
    aggregator.declare()
    aggregator.listen(Source.UPDATES)
    aggregator.broadcast(b"after")
    aggregator.send(b"update", worker="a")
    assert expect(worker).body == b"after"
    assert expect(aggregator).body == b"update"


def test_declaring_twice_is_fine(aggregator: Transport, join: Join) -> None:
    aggregator.broadcast(b"one")
    aggregator.declare()
    join().declare()
    assert aggregator.newest_head() == b"one"


def test_a_late_worker_reads_the_newest_head_at_once(aggregator: Transport, worker: Transport) -> None:
    for body in (b"one", b"two", b"three"):
        aggregator.broadcast(body)
    worker.listen(Source.MODELS)
    assert expect(worker) == Delivery(Source.MODELS, b"three")


def test_an_early_worker_reads_the_first_head_when_it_comes(aggregator: Transport, worker: Transport) -> None:
    worker.listen(Source.MODELS)
    assert worker.receive(NOT_COMING_S) is None
    aggregator.broadcast(b"one")
    assert expect(worker).body == b"one"


def test_of_the_heads_that_wait_only_the_newest_is_received(aggregator: Transport, worker: Transport) -> None:
    worker.listen(Source.MODELS)
    aggregator.broadcast(b"one")
    assert expect(worker).body == b"one"
    for number in range(20):
        aggregator.broadcast(str(number).encode())
    seen = [expect(worker).body]
    while seen[-1] != b"19":
        seen.append(expect(worker).body)
    assert worker.receive(NOT_COMING_S) is None


def test_every_worker_gets_the_same_head(aggregator: Transport, join: Join) -> None:
    workers = [join(), join(), join()]
    for transport in workers:
        transport.listen(Source.MODELS)
    aggregator.broadcast(b"all")
    assert [expect(transport).body for transport in workers] == [b"all"] * 3


def test_newest_head_of_an_empty_stream_is_none(aggregator: Transport) -> None:
    assert aggregator.newest_head() is None
    aggregator.broadcast(b"one")
    aggregator.broadcast(b"two")
    assert aggregator.newest_head() == b"two"


def test_an_update_arrives_with_its_sender_and_in_order(aggregator: Transport, worker: Transport) -> None:
    aggregator.listen(Source.UPDATES)
    for number in range(5):
        worker.send(bytes([number]), worker="site-a")
    received = [expect(aggregator) for _ in range(5)]
    assert [delivery.body for delivery in received] == [bytes([number]) for number in range(5)]
    assert {delivery.sender for delivery in received} == {"site-a"}


def test_updates_sent_before_anybody_listens_are_kept(aggregator: Transport, worker: Transport) -> None:
    worker.send(b"early", worker="site-a")
    aggregator.listen(Source.UPDATES)
    assert expect(aggregator).body == b"early"


def test_an_empty_and_a_large_body_arrive_as_they_were(aggregator: Transport, worker: Transport) -> None:
    aggregator.listen(Source.UPDATES)
    large = bytes(range(256)) * 2**14
    worker.send(b"", worker="a")
    worker.send(large, worker="a")
    assert expect(aggregator).body == b""
    assert bytes(expect(aggregator).body) == large


def test_prefetch_bounds_what_is_received_and_not_acked(aggregator: Transport, worker: Transport) -> None:
    aggregator.listen(Source.UPDATES, prefetch=2)
    for number in range(3):
        worker.send(bytes([number]), worker="a")
    first, _ = expect(aggregator), expect(aggregator)
    assert aggregator.receive(NOT_COMING_S) is None
    aggregator.ack([first])
    assert expect(aggregator).body == b"\x02"


def test_what_was_not_acked_goes_to_the_next_aggregator(aggregator: Transport, join: Join) -> None:
    aggregator.listen(Source.UPDATES)
    for body in (b"acked", b"not acked"):
        aggregator.send(body, worker="a")
    aggregator.ack([expect(aggregator)])
    expect(aggregator)
    aggregator.close()
    successor = join()
    successor.listen(Source.UPDATES)
    assert expect(successor).body == b"not acked"
    assert successor.receive(NOT_COMING_S) is None


@pytest.mark.parametrize("acked", [[0, 1, 2], [1], [2, 0], [3, 1, 2, 0], []])
def test_an_ack_takes_just_what_it_names_off_the_queue(aggregator: Transport, join: Join, acked: list[int]) -> None:
    aggregator.listen(Source.UPDATES)
    for number in range(4):
        aggregator.send(bytes([number]), worker="a")
    received = [expect(aggregator) for _ in range(4)]
    aggregator.ack([received[number] for number in acked])
    aggregator.close()
    successor = join()
    successor.listen(Source.UPDATES)
    left = [number for number in range(4) if number not in acked]
    assert sorted(expect(successor).body[0] for _ in left) == left
    assert successor.receive(NOT_COMING_S) is None


def test_given_back_updates_are_delivered_again_in_order(aggregator: Transport) -> None:
    aggregator.listen(Source.UPDATES)
    for number in range(4):
        aggregator.send(bytes([number]), worker="a")
    first = expect(aggregator)
    aggregator.ack([first])
    expect(aggregator), expect(aggregator)
    aggregator.give_back()
    bodies = {bytes(expect(aggregator).body) for _ in range(3)}
    assert bodies == {b"\x01", b"\x02", b"\x03"}
    assert aggregator.receive(NOT_COMING_S) is None


def test_set_aside_takes_an_update_off_the_queue(aggregator: Transport, join: Join) -> None:
    aggregator.listen(Source.UPDATES)
    aggregator.send(b"garbage", worker="a")
    aggregator.set_aside(expect(aggregator), "not a fedmq message")
    aggregator.close()
    successor = join()
    successor.listen(Source.UPDATES)
    assert successor.receive(NOT_COMING_S) is None


def test_many_that_are_set_aside_are_all_among_the_dead_letters_and_none_comes_again(
    aggregator: Transport, join: Join, queue: str
) -> None:
    aggregator.listen(Source.UPDATES, prefetch=8)
    for number in range(100):
        aggregator.send(bytes([number]), worker="a")
    for _ in range(100):
        aggregator.set_aside(expect(aggregator), "not a fedmq message")
    aggregator.give_back()
    assert aggregator.receive(NOT_COMING_S) is None
    dead = Topology(queue).dead
    assert aggregator.queued([dead])[dead].num_waiting == 100


def test_updates_of_an_ignored_sender_are_dropped_and_counted_and_those_of_others_arrive(
    aggregator: Transport, join: Join
) -> None:
    aggregator.listen(Source.UPDATES)
    aggregator.ignore("bad")
    for number in range(5):
        aggregator.send(b"garbage", worker="bad")
        aggregator.send(bytes([number]), worker="good")
    arrived = []
    while arrived.count("good") < 5:
        delivery = expect(aggregator)
        aggregator.ack([delivery])
        arrived.append(delivery.sender)
    dropped = aggregator.heed_all().get("bad", (0, 0))
    assert dropped[0] + arrived.count("bad") == 5
    assert dropped[1] == 7 * dropped[0]
    aggregator.send(b"garbage", worker="bad")
    assert expect(aggregator).sender == "bad"
    assert aggregator.heed_all() == {}


def test_of_a_message_that_is_too_long_only_the_beginning_arrives(aggregator: Transport) -> None:
    aggregator.listen(Source.UPDATES, most_bytes=2**17)
    for size in (2**17, 2**17 + 1):
        aggregator.send(bytes(size), worker="a")
    first, second = expect(aggregator), expect(aggregator)
    assert (len(first.body), first.num_bytes, first.cut_from) == (2**17, 2**17, 0)
    assert (len(second.body), second.num_bytes, second.cut_from) == (2**16, 2**17 + 1, 2**17 + 1)


def test_a_sign_of_life_arrives_with_its_sender(aggregator: Transport, worker: Transport) -> None:
    aggregator.listen(Source.UPDATES, Source.PRESENCE)
    arrived: list[Delivery | None] = []

    def arrives() -> bool:
        worker.announce(b"here", worker="site-b")  # where nobody receives yet, it is dropped
        arrived.append(aggregator.receive(NOT_COMING_S))
        return arrived[-1] is not None

    assert wait_until(arrives, timeout_s=SOON_S)
    assert arrived[-1] == Delivery(Source.PRESENCE, b"here", "site-b")


def test_dropped_updates_come_no_more_and_let_others_through(aggregator: Transport, join: Join) -> None:
    num, prefetch = 20, 4
    for number in range(num):
        aggregator.send(b"%d" % number, worker="a")
    aggregator.listen(Source.UPDATES, prefetch=prefetch)
    kept = expect(aggregator)
    for number in range(1, num):
        dropped = expect(aggregator)
        assert dropped.body == b"%d" % number
        aggregator.drop(dropped)
    aggregator.close()
    successor = join()
    successor.listen(Source.UPDATES)
    assert expect(successor).body == kept.body
    assert successor.receive(NOT_COMING_S) is None


def test_commands_arrive_in_order_beside_the_updates(aggregator: Transport, join: Join) -> None:
    operator = join()
    for body in (b"pause", b"resume"):
        operator.send_command(body)
    aggregator.send(b"update", worker="a")
    aggregator.listen(Source.COMMANDS, Source.UPDATES, prefetch=1)
    received = [expect(aggregator) for _ in range(3)]
    assert [each.body for each in received if each.source is Source.COMMANDS] == [b"pause", b"resume"]
    assert [each.body for each in received if each.source is Source.UPDATES] == [b"update"]
    aggregator.ack(received)
    aggregator.close()
    successor = join()
    successor.listen(Source.COMMANDS, Source.UPDATES)
    assert successor.receive(NOT_COMING_S) is None


def test_a_command_that_was_not_acked_goes_to_the_next_aggregator(aggregator: Transport, join: Join) -> None:
    aggregator.listen(Source.COMMANDS)
    aggregator.send_command(b"pause")
    aggregator.send_command(b"resume")
    first, _ = expect(aggregator), expect(aggregator)
    aggregator.ack([first])
    aggregator.close()
    successor = join()
    successor.listen(Source.COMMANDS)
    assert expect(successor).body == b"resume"


def test_what_is_given_back_are_commands_too(aggregator: Transport) -> None:
    aggregator.listen(Source.COMMANDS, Source.UPDATES)
    aggregator.send_command(b"pause")
    assert expect(aggregator).body == b"pause"
    aggregator.give_back()
    again = expect(aggregator)
    assert again.body == b"pause"
    aggregator.ack([again])


def test_a_command_that_is_set_aside_comes_no_more(aggregator: Transport, join: Join) -> None:
    aggregator.listen(Source.COMMANDS)
    aggregator.send_command(b"nonsense")
    aggregator.set_aside(expect(aggregator), "no command")
    aggregator.close()
    successor = join()
    successor.listen(Source.COMMANDS)
    assert successor.receive(NOT_COMING_S) is None


def test_without_its_queue_a_command_cannot_be_sent(join: Join) -> None:
    with pytest.raises(QueueMissing):
        join().send_command(b"pause")


def test_a_blob_is_read_part_by_part_by_any_number_of_readers(aggregator: Transport, join: Join) -> None:
    parts = [bytes([number]) * 1000 for number in range(7)]
    aggregator.write_blob("t-blob.x", iter(parts))
    try:
        for transport in (join(), join()):
            transport.listen(Source.MODELS)
            assert [bytes(part) for part in transport.read_blob("t-blob.x", 7)] == parts
            assert [bytes(part) for part in transport.read_blob("t-blob.x", 7)] == parts
    finally:
        aggregator.delete_blobs(["t-blob.x"])


def test_parts_in_zstd_come_out_one_by_one_as_they_were(aggregator: Transport, worker: Transport) -> None:
    """Of compressible and of random bytes, at the largest size of a part, where a frame is longer than its part."""
    parts = [bytes(MAX_PART_BYTES), secrets.token_bytes(MAX_PART_BYTES), b"the last one"]
    worker.listen(Source.MODELS)
    aggregator.write_blob("t-blob.zstd", (zstd.compressed(part, 3) for part in parts))
    try:
        frames = worker.read_blob("t-blob.zstd", 3)
        for part, frame in zip(parts, frames, strict=True):
            assert zstd.decompressed(frame, len(part)) == part
    finally:
        aggregator.delete_blobs(["t-blob.zstd"])


def test_a_blob_written_again_replaces_the_first(aggregator: Transport, worker: Transport) -> None:
    worker.listen(Source.MODELS)
    aggregator.write_blob("t-blob.y", [b"half"])
    aggregator.write_blob("t-blob.y", [b"whole", b"thing"])
    try:
        assert [bytes(part) for part in worker.read_blob("t-blob.y", 2)] == [b"whole", b"thing"]
    finally:
        aggregator.delete_blobs(["t-blob.y"])


def test_a_blob_that_is_gone_is_lost(aggregator: Transport, worker: Transport) -> None:
    worker.listen(Source.MODELS)
    aggregator.write_blob("t-blob.z", [b"part"])
    aggregator.delete_blobs(["t-blob.z", "t-blob.never"])
    with pytest.raises(BlobLost):
        list(worker.read_blob("t-blob.z", 1))
    aggregator.broadcast(b"still alive")
    assert expect(worker).body == b"still alive"


def parts_and_news(transport: Transport, number: int) -> list[tuple[str, int, bytes, BlobNews | None]]:
    """The next deliveries, which are all of blobs."""
    found = [expect(transport) for _ in range(number)]
    assert {delivery.source for delivery in found} == {Source.PARTS}
    return [(each.sender, each.part, bytes(each.body), each.news) for each in found]


@pytest.fixture
def reading(aggregator: Transport) -> Transport:
    """The aggregator's, once it is connected to receive."""
    aggregator.listen(Source.UPDATES)
    aggregator.send(b"first", worker="a")
    aggregator.ack([expect(aggregator)])
    return aggregator


def test_a_blob_is_fetched_beside_the_updates(reading: Transport, worker: Transport) -> None:
    parts = [bytes([number]) * 1000 for number in range(7)]
    worker.write_blob("t-blob.f", iter(parts))
    try:
        reading.fetch("t-blob.f", 7)
        worker.send(b"update", worker="a")
        received = [expect(reading) for _ in range(8)]
        of_blob = [delivery for delivery in received if delivery.source is Source.PARTS]
        assert [(each.sender, each.part, bytes(each.body)) for each in of_blob] == [
            ("t-blob.f", index, part) for index, part in enumerate(parts)
        ]
        assert {delivery.news for delivery in of_blob} == {None}
        assert reading.receive(NOT_COMING_S) is None
        reading.fetch("t-blob.f", 2)  # once more
        assert [part for _, part, _, _ in parts_and_news(reading, 2)] == [0, 1]
        assert reading.receive(NOT_COMING_S) is None
    finally:
        reading.delete_blobs(["t-blob.f"])


def test_several_blobs_are_fetched_at_once_and_each_in_order(reading: Transport, worker: Transport) -> None:
    names = ["t-blob.f1", "t-blob.f2", "t-blob.f3"]
    for name in names:
        worker.write_blob(name, [name.encode() + bytes([number]) for number in range(5)])
    try:
        for name in names:
            reading.fetch(name, 5)
        received = parts_and_news(reading, 15)
        for name in names:
            own = [(index, body) for of, index, body, _ in received if of == name]
            assert own == [(number, name.encode() + bytes([number])) for number in range(5)]
    finally:
        reading.delete_blobs(names)


def test_a_part_that_is_not_there_yet_is_waited_for_and_holds_up_nothing(reading: Transport) -> None:
    reading.write_blob("t-blob.late", [b"one"])
    try:
        reading.fetch("t-blob.late", 2)
        assert parts_and_news(reading, 1) == [("t-blob.late", 0, b"one", None)]
        assert reading.receive(NOT_COMING_S) is None
        reading.send(b"update", worker="a")
        assert expect(reading).body == b"update"
        reading.ask_after("t-blob.late")
        assert parts_and_news(reading, 1) == [("t-blob.late", 0, b"", BlobNews.QUIET)]
        reading.stop_fetching("t-blob.late")
        reading.ask_after("t-blob.late")
        assert reading.receive(NOT_COMING_S) is None
    finally:
        reading.delete_blobs(["t-blob.late"])


def test_parts_that_have_arrived_are_received_before_the_word_that_nothing_is_new(reading: Transport) -> None:
    reading.write_blob("t-blob.q", [b"one"])
    try:
        reading.fetch("t-blob.q", 2)
        reading.ask_after("t-blob.q")
        news = []
        while not news or news[-1] is None:
            news.append(parts_and_news(reading, 1)[0][3])
        assert news[-1] is BlobNews.QUIET
        assert news in ([None, BlobNews.QUIET], [BlobNews.QUIET])  # it may not have been sent yet
    finally:
        reading.delete_blobs(["t-blob.q"])


def test_a_blob_that_is_missing_or_deleted_while_it_is_fetched_says_so(reading: Transport) -> None:
    reading.fetch("t-blob.never", 1)
    assert parts_and_news(reading, 1) == [("t-blob.never", 0, b"", BlobNews.GONE)]
    reading.write_blob("t-blob.half", [b"one"])
    reading.fetch("t-blob.half", 2)
    assert parts_and_news(reading, 1) == [("t-blob.half", 0, b"one", None)]
    reading.delete_blobs(["t-blob.half"])
    assert parts_and_news(reading, 1) == [("t-blob.half", 0, b"", BlobNews.GONE)]
    reading.send(b"update", worker="a")
    assert expect(reading).body == b"update"


def test_nothing_is_fetched_any_more_after_the_updates_were_given_back(reading: Transport) -> None:
    reading.write_blob("t-blob.g", [b"one"])
    try:
        reading.send(b"update", worker="a")
        expect(reading)
        reading.fetch("t-blob.g", 2)
        reading.give_back()
        assert expect(reading).body == b"update"
        assert reading.receive(NOT_COMING_S) is None
    finally:
        reading.delete_blobs(["t-blob.g"])


@pytest.fixture
def root(join: Join) -> Transport:
    """The root aggregator's, with two shards."""
    transport = join(num_shards=2)
    transport.declare()
    return transport


def names_of_shard(shard: int, number: int) -> list[str]:
    """Workers that are of this one of two shards."""
    names = (f"site-{index}" for index in range(1000))
    return [name for name in names if shard_of(name, 2) == shard][:number]


def test_with_shards_an_update_goes_to_the_partial_aggregator_of_its_workers_shard(root: Transport, join: Join) -> None:
    partials = [join(shard=0), join(shard=1)]
    for shard, partial in enumerate(partials):
        for name in names_of_shard(shard, 2):
            root.send(name.encode(), worker=name, num_shards=2)
        partial.listen(Source.MODELS, Source.UPDATES)
    root.listen(Source.PRESENCE, Source.UPDATES)
    for shard, partial in enumerate(partials):
        received = [expect(partial), expect(partial)]
        assert [delivery.sender for delivery in received] == names_of_shard(shard, 2)
        assert [bytes(delivery.body).decode() for delivery in received] == names_of_shard(shard, 2)
        assert partial.receive(NOT_COMING_S) is None
    assert root.receive(NOT_COMING_S) is None


def test_a_partial_aggregator_waits_until_the_root_has_made_the_queues(join: Join) -> None:
    partial = join(shard=1)
    is_there = threading.Event()

    def wait() -> None:
        partial.declare()
        is_there.set()

    waiting = threading.Thread(target=wait)
    waiting.start()
    assert not is_there.wait(NOT_COMING_S)
    join(num_shards=2).declare()
    assert is_there.wait(SOON_S)
    waiting.join()


def test_a_partial_sum_and_what_is_passed_on_go_to_the_root(root: Transport, join: Join) -> None:
    partial = join(shard=1)
    partial.listen(Source.MODELS, Source.UPDATES)
    partial.send_partial(b"sum", shard=1)
    partial.send(b"passed on", worker="site-a")
    root.listen(Source.PRESENCE, Source.UPDATES)
    first, second = expect(root), expect(root)
    assert (first.body, first.shard) == (b"sum", 1)
    assert (second.body, second.shard, second.sender) == (b"passed on", None, "site-a")
    assert partial.receive(NOT_COMING_S) is None


def test_what_a_partial_aggregator_did_not_ack_goes_to_the_next_one(root: Transport, join: Join) -> None:
    (worker,) = names_of_shard(0, 1)
    partial = join(shard=0)
    partial.listen(Source.UPDATES)
    for body in (b"acked", b"not acked", b"given back"):
        root.send(body, worker=worker, num_shards=2)
    partial.ack([expect(partial)])
    expect(partial), expect(partial)
    partial.give_back()
    assert {bytes(expect(partial).body) for _ in range(2)} == {b"not acked", b"given back"}
    partial.close()
    successor = join(shard=0)
    successor.listen(Source.UPDATES)
    assert {bytes(expect(successor).body) for _ in range(2)} == {b"not acked", b"given back"}
    assert successor.receive(NOT_COMING_S) is None


def test_the_root_and_one_partial_aggregator_of_each_shard_lead_at_a_time(root: Transport, join: Join) -> None:
    assert root.lead()
    first, other_shard, second = join(shard=0), join(shard=1), join(shard=0)
    assert first.lead()
    assert other_shard.lead()
    assert not second.lead()
    assert not join().lead()
    first.close()
    wait_until(second.lead, timeout_s=SOON_S)
    assert second.lead()


def test_partial_aggregators_get_every_head(root: Transport, join: Join) -> None:
    partials = [join(shard=0), join(shard=1)]
    for partial in partials:
        partial.listen(Source.MODELS, Source.UPDATES)
    root.broadcast(b"model")
    assert [expect(partial).body for partial in partials] == [b"model"] * 2


def test_what_a_keeper_is_asked_goes_to_it_alone_and_its_answer_to_the_root(join: Join) -> None:
    root = join(keepers=("ethics", "it"))
    root.declare()
    ethics, it = join(keeper="ethics"), join(keeper="it")
    for keeper in (ethics, it):
        keeper.declare()
        assert keeper.lead()
        keeper.listen(Source.MODELS, Source.UPDATES)
    assert not join(keeper="it").lead()
    root.send_request(b"request", keeper="ethics")
    asked = expect(ethics)
    assert (asked.body, asked.source, asked.keeper) == (b"request", Source.UPDATES, None)
    assert it.receive(NOT_COMING_S) is None
    ethics.send_release(b"release", keeper="ethics")
    ethics.ack([asked])
    root.listen(Source.UPDATES)
    answer = expect(root)
    assert (answer.body, answer.keeper, answer.shard) == (b"release", "ethics", None)


def test_what_a_keeper_did_not_ack_comes_again(join: Join) -> None:
    root = join(keepers=("ethics",))
    root.declare()
    keeper = join(keeper="ethics")
    keeper.listen(Source.UPDATES)
    root.send_request(b"request", keeper="ethics")
    assert expect(keeper).body == b"request"
    keeper.close()
    successor = join(keeper="ethics")
    successor.listen(Source.UPDATES)
    assert expect(successor).body == b"request"


def test_wake_ends_a_wait_from_another_thread(aggregator: Transport) -> None:
    aggregator.listen(Source.UPDATES)
    threading.Timer(0.2, aggregator.wake).start()
    assert aggregator.receive(SOON_S) is None


def test_all_names_derive_from_the_queue() -> None:
    topology = Topology("updates")
    assert list(queues(topology)) == [
        "updates.models",
        "updates",
        "updates.dead",
        "updates.commands",
        "updates.statuses",
    ]


def test_of_what_the_aggregator_says_of_itself_only_the_newest_is_there_for_all_who_look(
    aggregator: Transport, join: Join
) -> None:
    readers = [join() for _ in range(3)]
    assert readers[0].read_status() is None
    for number in range(5):
        aggregator.send_status(str(number).encode())
    assert wait_until(lambda: readers[0].read_status() == b"4", timeout_s=SOON_S)
    found: list[object] = []
    threads = [
        threading.Thread(target=lambda own=own: found.extend(own.read_status() for _ in range(20))) for own in readers
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [b"4"] * 60
    aggregator.send_status(b"5")
    assert wait_until(lambda: readers[1].read_status() == b"5", timeout_s=SOON_S)


def test_what_waits_is_counted_and_a_queue_that_is_not_there_is_left_out(aggregator: Transport, queue: str) -> None:
    topology = Topology(queue)
    for _ in range(3):
        aggregator.send(b"update", worker="a")
    names = [topology.updates, topology.dead, topology.updates_of(0)]
    counted = {topology.updates: Queued(3, 0), topology.dead: Queued(0, 0)}
    assert wait_until(lambda: aggregator.queued(names) == counted, timeout_s=SOON_S)


def test_who_takes_updates_is_counted_for_each_queue(join: Join, queue: str) -> None:
    names = Topology(queue, num_shards=2).update_queues
    root, partial = join(num_shards=2), join(num_shards=2, shard=1)
    root.declare()
    for shard in range(2):
        worker = next(name for name in map(str, range(100)) if shard_of(name, 2) == shard)
        root.send(b"update", worker=worker, num_shards=2)

    def num_readers() -> list[int]:
        found = root.queued(names)
        return [found[name].num_readers for name in names]

    assert num_readers() == [0, 0, 0]
    root.listen(Source.PRESENCE, Source.UPDATES)
    partial.listen(Source.MODELS, Source.UPDATES)
    assert wait_until(lambda: num_readers() == [1, 0, 1], timeout_s=SOON_S)
    partial.close()
    assert wait_until(lambda: num_readers() == [1, 0, 0], timeout_s=SOON_S)


def test_who_looks_while_it_changes_always_finds_it_and_leaves_the_newest_there(
    aggregator: Transport, join: Join
) -> None:
    readers = [join() for _ in range(3)]
    aggregator.send_status(b"0")
    assert wait_until(lambda: readers[0].read_status() == b"0", timeout_s=SOON_S)
    is_over = threading.Event()
    found: list[list[object]] = [[] for _ in readers]

    def look(own: Transport, seen: list[object]) -> None:
        while not is_over.is_set():
            seen.append(own.read_status())

    threads = [threading.Thread(target=look, args=pair) for pair in zip(readers, found, strict=True)]
    for thread in threads:
        thread.start()
    said = [str(number).encode() for number in range(101)]
    for body in said[1:]:
        aggregator.send_status(body)
        is_over.wait(0.005)
    is_over.set()
    for thread in threads:
        thread.join()
    assert all(seen and set(seen) <= set(said) for seen in found)
    assert wait_until(lambda: aggregator.read_status() == b"100", timeout_s=SOON_S)
    assert [own.read_status() for own in readers] == [b"100"] * 3


def test_without_its_queue_there_is_nothing_to_look_at(join: Join) -> None:
    with pytest.raises(QueueMissing):
        join().read_status()
