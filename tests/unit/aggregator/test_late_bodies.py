"""A body in a blob that comes slowly, or never, or badly: others go first, and it has its limits."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from unit.aggregator.embedded_run import EmbeddedRun, StateTask, payload_of

from aggregator.bodies.arrivals import Arrivals
from aggregator.bodies.limits import BodyLimits
from aggregator.rounds.intake import Update, read_update
from broker.memory import MemoryTransport
from broker.states.tensors import State
from broker.transport import BlobNews, Delivery, Source
from broker.wire.buffers import cut
from broker.wire.codec import encode
from broker.wire.messages import BlobRef
from console.watching import Transferring

ZERO: State = {"w": torch.zeros(4, dtype=torch.float64)}
ONE: State = {"w": torch.ones(4, dtype=torch.float64)}
TWO: State = {"w": torch.full((4,), 2.0, dtype=torch.float64)}
NUM_PARTS = 4
LIMITS = BodyLimits()
Begin = Callable[..., EmbeddedRun]


def begun(begin: Begin, **changes: Any) -> EmbeddedRun:
    return begin(StateTask(ZERO), **{"part_bytes": 8, "rounds": 5} | changes)


def name_of(run: EmbeddedRun, worker: str) -> str:
    return run.topology.update_blob(worker, run.head.run_id, run.round)


def announce(run: EmbeddedRun, worker: str, delta: State, **changes: Any) -> str:
    """Sends an update whose blob is there but empty; returns the blob's name."""
    name = name_of(run, worker)
    run.broker.blobs[name] = ()
    blob = BlobRef(name=name, part_bytes=8)
    run.site.send(encode(run.update_head(worker, delta, blob=blob, **changes)), worker=worker)
    run.settle()
    return name


def write(run: EmbeddedRun, name: str, delta: State, num_parts: int = NUM_PARTS) -> None:
    """Puts the first parts of a body into a blob."""
    run.broker.blobs[name] = tuple(list(cut([payload_of(delta)], 8))[:num_parts])
    run.settle()


def test_an_update_whose_body_is_late_is_put_back_and_others_go_first(begin: Begin) -> None:
    run = begun(begin, quorum="3")
    late = announce(run, "late", ONE)
    write(run, late, ONE, num_parts=2)
    run.fold_all([("a", ONE), ("b", TWO)])
    run.send("c", ONE, blob_bytes=8)
    run.settle()
    assert run.closed("round, num_folded") == [(1, 3)]
    assert [worker for worker, _ in run.verdicts()] == ["a", "b", "c"]


def test_a_late_body_is_folded_as_soon_as_all_of_it_is_there(begin: Begin) -> None:
    run = begun(begin)
    late = announce(run, "late", ONE)
    run.fold_all([("a", TWO)])
    for num_parts in range(NUM_PARTS):
        write(run, late, ONE, num_parts)
        assert run.num_folded == 1
        run.pass_time(LIMITS.stall_s / 5)
    write(run, late, ONE)
    assert run.round == 2
    assert run.model["w"].tolist() == [1.5] * 4


def test_a_round_closes_while_a_body_is_on_its_way_and_that_is_late_then(begin: Begin) -> None:
    run = begun(begin)
    late = announce(run, "late", ONE)
    write(run, late, ONE, num_parts=2)
    run.fold_all([("a", ONE), ("b", TWO)])
    assert run.round == 2
    write(run, late, ONE)
    assert run.verdicts("worker, verdict, base_round")[-1] == ("late", "late", 1)
    assert late not in run.broker.blobs


def test_a_body_that_is_complete_in_time_counts_in_the_next_round_if_staleness_is_allowed(begin: Begin) -> None:
    run = begun(begin, max_staleness=1)
    late = announce(run, "late", ONE)
    run.fold_all([("a", ONE), ("b", TWO)])
    write(run, late, ONE)
    assert run.verdicts("worker, verdict, staleness")[-1] == ("late", "folded", 1)


@pytest.mark.parametrize("num_parts", [0, 2])
def test_a_body_of_which_no_new_part_comes_is_set_aside_at_the_limit_and_says_which(
    begin: Begin, num_parts: int
) -> None:
    run = begun(begin)
    stalled = announce(run, "stalled", ONE)
    write(run, stalled, ONE, num_parts)
    run.pass_time(LIMITS.stall_s - 0.1)
    assert run.reasons == []
    run.pass_time(0.1)
    assert run.reasons == ["no new part of its body came for 20 s"]
    assert run.verdicts() == [("stalled", "refused")]
    run.fold_all([("a", ONE), ("b", TWO)])
    assert run.round == 2


def test_parts_that_come_one_by_one_do_not_make_it_take_longer_than_its_size_allows(begin: Begin) -> None:
    run = begun(begin)
    slow = announce(run, "slow", ONE)
    for num_parts in range(1, NUM_PARTS):
        write(run, slow, ONE, num_parts)
        run.pass_time(LIMITS.stall_s / 2)
    assert run.reasons == ["its body of 32 bytes is not there after 20 s"]


def test_parts_that_were_there_before_the_limit_count_however_long_the_aggregator_was_away(begin: Begin) -> None:
    run = begun(begin, quorum="1")
    late = announce(run, "late", ONE)
    run.broker.blobs[late] = tuple(cut([payload_of(ONE)], 8))
    run.pass_time(10 * LIMITS.stall_s)
    assert run.reasons == []
    assert run.round == 2


def test_the_deadline_fires_while_a_body_is_late(begin: Begin) -> None:
    run = begun(begin, deadline_s=10)
    run.fold_all([("a", TWO)])
    announce(run, "late", ONE)
    assert run.aggregator.time_left() <= 10.001
    run.pass_time(10)
    assert run.round == 2


def test_the_limit_is_part_of_the_time_left(begin: Begin) -> None:
    run = begun(begin, deadline_s=1000)
    run.fold_all([("a", TWO)])
    run.pass_time(29)
    run.pass_time(2)  # what is logged and committed by time is over
    announce(run, "late", ONE)
    assert run.aggregator.time_left() == pytest.approx(LIMITS.stall_s + 0.001)


def test_a_stop_gives_an_unfinished_body_back_and_its_update_is_folded_after_all(begin: Begin) -> None:
    run = begun(begin)
    late = announce(run, "late", ONE)
    write(run, late, ONE, num_parts=2)
    run.stop()
    again = begin(StateTask(ZERO), part_bytes=8, rounds=5, broker=run.broker)
    again.fold_all([("a", TWO)])
    write(again, late, ONE)
    assert again.round == 2
    assert again.model["w"].tolist() == [1.5] * 4


def test_a_blob_that_is_deleted_on_the_way_is_said_to_be_gone(begin: Begin) -> None:
    run = begun(begin)
    late = announce(run, "late", ONE)
    write(run, late, ONE, num_parts=2)
    run.site.delete_blobs([late])
    run.settle()
    assert run.reasons == [f"blob {late} is gone"]


def test_a_wrong_size_is_refused_at_the_first_part_that_has_it(begin: Begin) -> None:
    run = begun(begin)
    late = announce(run, "late", ONE)
    run.broker.blobs[late] = (bytes(8), bytes(7))
    run.settle()
    assert run.reasons == ["its body has a part of 7 bytes where 8 were announced"]


def test_a_second_update_of_a_worker_whose_first_is_on_its_way_is_read_after_it(begin: Begin) -> None:
    """The first turns out to be bad: then the second counts."""
    run = begun(begin, quorum="1")
    first = announce(run, "a", ONE, sha256="0" * 64)
    second = f"{first}.1"
    run.broker.blobs[second] = tuple(cut([payload_of(TWO)], 8))
    blob = BlobRef(name=second, part_bytes=8)
    run.site.send(encode(run.update_head("a", TWO, blob=blob, instance="ffffffff")), worker="a")
    run.settle()
    assert run.num_folded == 0
    write(run, first, ONE)
    assert run.reasons == ["its body does not match its digest"]
    assert run.model["w"].tolist() == [2.0] * 4


def test_of_one_worker_only_a_few_updates_wait(begin: Begin) -> None:
    run = begun(begin)
    announce(run, "stalled", ONE)
    for _ in range(LIMITS.num_of_sender):
        announce(run, "stalled", ONE)
    assert run.reasons == ["the bodies of 4 newer updates of 'stalled' are on their way"]
    run.fold_all([("a", ONE), ("b", TWO)])
    assert run.round == 2


def test_a_worker_that_was_restarted_again_and_again_while_nobody_read_has_its_last_update_folded(begin: Begin) -> None:
    """Each time it wrote its blob anew, with other bytes: sealed ones always are."""
    run = begun(begin, quorum="1")
    name, blob = name_of(run, "a"), BlobRef(name=name_of(run, "a"), part_bytes=8)
    for number in range(2 * LIMITS.num_of_sender):
        head = run.update_head("a", ONE, blob=blob, sha256=f"{number:064}", instance=f"{number:08}")
        run.site.send(encode(head), worker="a")
    run.site.send(encode(run.update_head("a", TWO, blob=blob)), worker="a")
    run.broker.blobs[name] = tuple(cut([payload_of(TWO)], 8))
    run.settle()
    assert run.model["w"].tolist() == [2.0] * 4


def test_a_repeated_update_whose_blob_is_gone_is_a_duplicate_and_no_bad_one(begin: Begin) -> None:
    run = begun(begin, quorum="2")
    first = announce(run, "a", ONE)
    second = BlobRef(name=f"{first}.1", part_bytes=8)
    run.broker.blobs[second.name] = ()
    run.site.send(encode(run.update_head("a", ONE, blob=second, instance="ffffffff")), worker="a")
    run.settle()
    write(run, first, ONE)
    run.site.delete_blobs([second.name])
    run.settle()
    assert run.reasons == []
    assert run.verdicts() == [("a", "folded"), ("a", "duplicate")]


def test_a_body_that_never_came_of_a_closed_round_is_late_and_no_bad_one(begin: Begin) -> None:
    run = begun(begin)
    announce(run, "late", ONE)
    run.fold_all([("a", ONE), ("b", TWO)])
    run.pass_time(LIMITS.stall_s)
    assert run.reasons == []
    assert run.verdicts("worker, verdict, base_round")[-1] == ("late", "late", 1)


def test_a_window_full_of_late_bodies_lets_others_in_by_a_commit(begin: Begin) -> None:
    run = begun(begin, quorum="100", min_updates=100, commit_every_s=3600)
    prefetch = run.aggregator._run.prefetch
    for number in range(prefetch - 2):
        announce(run, f"late-{number}", ONE)
    run.fold_all([(f"w{number}", ONE) for number in range(10)])
    assert run.num_folded == 10


def test_bodies_that_were_read_are_not_taken_for_what_kills_the_aggregator(begin: Begin) -> None:
    """Its message comes back again and again, since others kill the aggregator; it waits all the time."""
    run = begun(begin)
    late = announce(run, "late", ONE)
    delivery = next(iter(run.aggregator._run.bodies._all())).delivery
    for _ in range(10):
        run.aggregator._run.bodies.clear()
        run.aggregator._reception.take(replace(delivery, num_returns=5))
    run.settle()
    write(run, late, ONE)
    assert run.reasons == []
    assert run.query("SELECT count(*) FROM attempts") == [(0,)]
    assert run.num_folded == 1


# -- the arrivals alone -----------------------------------------------------------------------------------------------


class Recorder(MemoryTransport):
    """Remembers what is fetched; gives nothing of its own."""

    fetched: list[str]

    def fetch(self, name: str, num_parts: int) -> None:
        self.fetched.append(name)

    def ask_after(self, name: str) -> None:
        self.fetched.append(f"? {name}")


class Bench:
    """Arrivals fed by hand."""

    def __init__(self, run: EmbeddedRun, folder: Path, **limits: Any) -> None:
        self.run = run
        self.transport = Recorder(run.broker)
        self.transport.fetched = []
        self.events: list[Transferring] = []
        self.arrivals: Arrivals[Update] = Arrivals(
            self.transport,
            folder=folder,
            limits=BodyLimits(**limits),
            clock=run.clock,
            on_event=self.events.append,
        )

    def expect(self, worker: str, session: int = 1, **changes: Any) -> str:
        name = name_of(self.run, worker)
        body = encode(self.run.update_head(worker, ONE, blob=BlobRef(name=name, part_bytes=8), **changes))
        delivery = Delivery(Source.UPDATES, body, worker, session=session)
        update = read_update(delivery, self.run.aggregator._run.expected, round_number=1)
        self.arrivals.expect(update, delivery)
        return name

    def part(self, name: str, index: int = 0, *, news: BlobNews | None = None) -> None:
        body = b"" if news else payload_of(ONE)[8 * index : 8 * index + 8]
        self.arrivals.take(Delivery(Source.PARTS, body, name, part=index, news=news))

    def settle(self) -> list[str]:
        """What came to its end, as text."""
        settled = self.arrivals.settle()
        for each in settled:
            if each.body is not None:
                each.body.close()
        return [f"{each.message} {each.reason}".strip() for each in settled]


@pytest.fixture
def bench(begin: Begin, tmp_path: Path) -> Iterator[Callable[..., Bench]]:
    run = begun(begin)
    benches: list[Bench] = []

    def make(**limits: Any) -> Bench:
        benches.append(Bench(run, tmp_path, **limits))
        return benches[-1]

    yield make
    for each in benches:
        each.arrivals.clear()


def test_few_are_read_at_a_time_and_one_that_stands_still_makes_room(bench: Callable[..., Bench]) -> None:
    at = bench(num_active=2)
    names = [at.expect(worker) for worker in "abcd"]
    assert at.settle() == []
    assert at.transport.fetched == names[:2]
    at.run.clock.now += 0.4
    at.part(names[0])
    at.settle()
    assert at.transport.fetched == names[:2]
    assert at.arrivals.time_left() == pytest.approx(0.1)
    at.run.clock.now += 0.1
    at.settle()  # nothing came of b for half a second
    assert at.transport.fetched == names[:3]
    for index in range(1, NUM_PARTS):
        at.part(names[0], index)
    assert at.settle() == ["update of a"]
    assert at.transport.fetched == names


def test_before_one_is_given_up_the_broker_is_asked_and_a_lost_connection_is_not_its_fault(
    bench: Callable[..., Bench],
) -> None:
    at = bench()
    answered, interrupted = at.expect("a", session=2), at.expect("b", session=1)
    at.settle()
    at.run.clock.now += 20
    assert at.settle() == []
    assert at.transport.fetched[2:] == [f"? {answered}", f"? {interrupted}"]
    assert at.arrivals.time_left() is None
    at.part(interrupted, news=BlobNews.INTERRUPTED)
    assert at.settle() == []
    at.part(answered, news=BlobNews.QUIET)
    assert at.settle() == ["update of a no new part of its body came for 20 s"]
    assert len(at.arrivals) == 0


def test_a_part_that_was_on_its_way_saves_it(bench: Callable[..., Bench]) -> None:
    at = bench(base_s=100)
    name = at.expect("a")
    at.settle()
    at.run.clock.now += 20
    at.settle()
    at.part(name)
    at.part(name, news=BlobNews.QUIET)
    assert at.settle() == []
    assert at.arrivals.time_left() == pytest.approx(20)


def test_all_messages_of_a_lost_session_are_forgotten_with_it(bench: Callable[..., Bench], tmp_path: Path) -> None:
    at = bench(num_active=1)
    first, _, newer = at.expect("a"), at.expect("b"), at.expect("c", session=2)
    at.settle()
    at.part(first)
    at.part(first, news=BlobNews.INTERRUPTED)
    at.settle()
    assert len(at.arrivals) == 1
    assert at.transport.fetched == [first, newer]
    assert not [path for path in tmp_path.iterdir() if path.is_file()]


def test_how_far_each_is_is_told(bench: Callable[..., Bench]) -> None:
    at = bench()
    name = at.expect("a")
    at.settle()
    for index in range(NUM_PARTS):
        at.part(name, index)
    told = [(event.what, event.num_bytes, event.total_bytes) for event in at.events]
    assert told == [("update of a", 0, 32), ("update of a", 32, 32)]


def test_of_more_than_a_few_of_one_worker_the_oldest_is_given_up(bench: Callable[..., Bench]) -> None:
    at = bench(num_of_sender=2)
    for instance in ("aaaaaaaa", "bbbbbbbb", "cccccccc"):
        at.expect("a", instance=instance)
    at.expect("b")
    (given_up,) = at.arrivals.settle()
    assert given_up.message.head.instance == "aaaaaaaa"
    assert given_up.reason == "the bodies of 2 newer updates of 'a' are on their way"


def places(at: Bench) -> list[str]:
    """Where the bodies that are being read go."""
    return [type(reading.body).__name__ for reading in at.arrivals._reading.values()]


def test_bodies_are_read_in_memory_as_far_as_it_goes(bench: Callable[..., Bench]) -> None:
    at = bench(memory_bytes=32)
    names = [at.expect(worker) for worker in "ab"]
    at.settle()
    at.part(names[0])
    at.settle()
    assert places(at) == ["InMemory"]  # the other one waits for its room
    for index in range(1, NUM_PARTS):
        at.part(names[0], index)
    (settled,) = at.arrivals.settle()
    assert settled.body is not None
    assert b"".join(piece for _, piece in settled.body.pieces()) == payload_of(ONE)
    assert [offset for offset, _ in settled.body.pieces()] == [0, 8, 16, 24]
    settled.body.close()
    assert places(at) == ["InMemory"]
    assert at.transport.fetched == names


def test_one_that_stands_still_in_memory_is_passed_by_others_in_files(bench: Callable[..., Bench]) -> None:
    at = bench(memory_bytes=32)
    names = [at.expect(worker) for worker in "abc"]
    at.settle()
    at.run.clock.now += 0.5
    at.settle()
    assert places(at) == ["InMemory", "InFile", "InFile"]
    for index in range(NUM_PARTS):
        at.part(names[1], index)
    assert at.settle() == ["update of b"]


def test_large_bodies_are_read_into_files(bench: Callable[..., Bench]) -> None:
    at = bench(memory_bytes=32, alone_bytes=31)
    for worker in "ab":
        at.expect(worker)
    at.settle()
    assert places(at) == ["InFile", "InFile"]


def test_one_alone_in_memory_may_be_larger_than_several(bench: Callable[..., Bench]) -> None:
    at = bench(memory_bytes=1, alone_bytes=32)
    for worker in "ab":
        at.expect(worker)
    at.settle()
    assert places(at) == ["InMemory"]


def test_a_body_in_thousands_of_little_parts_is_read_into_a_file(
    bench: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aggregator.bodies.arrivals._MOST_PARTS", NUM_PARTS - 1)
    at = bench()
    at.expect("a")
    at.settle()
    assert places(at) == ["InFile"]
