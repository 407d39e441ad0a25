"""What one sender, or many invented ones, can take of an aggregator's time, disk and log."""

import logging
from pathlib import Path

import pytest
import torch
from unit.aggregator.conftest import Begin
from unit.aggregator.embedded_run import EmbeddedRun, StateTask
from unit.aggregator.sharded_run import ShardedRun

from aggregator.history import History, overview
from aggregator.senders.quota import MOST_OF_ONE, MOST_OF_STRANGERS, MOST_PASSED_OVER, Dropped, Quota
from aggregator.senders.refusals import Refusals
from aggregator.state import UpdateRow
from broker.memory import MemoryBroker, MemoryTransport
from broker.states.tensors import State
from broker.transport import BEGINNING_BYTES, DeadLetter, Source

INITIAL: State = {"w": torch.zeros(4)}
DELTA: State = {"w": torch.ones(4)}


def hail(run: EmbeddedRun, *names: str, num: int, body: bytes = b"garbage") -> None:
    """So many bad messages under each of these names."""
    for _ in range(num):
        for name in names:
            run.site.send(body, worker=name)
    run.settle(most=100_000)


def warnings(caplog: pytest.LogCaptureFixture, words: str) -> int:
    return sum(words in record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING)


# -- the quota ------------------------------------------------------------------------------------------------


def test_a_known_sender_has_a_quota_of_its_own_and_strangers_share_one() -> None:
    quota = Quota(is_known={"known"}.__contains__)
    kept = [quota.keep(f"stranger-{index}") for index in range(MOST_OF_STRANGERS + 10)]
    assert kept == [True] * MOST_OF_STRANGERS + [False] * 10
    assert [quota.keep("known") for _ in range(MOST_OF_ONE + 1)] == [True] * MOST_OF_ONE + [False]
    assert quota.is_used_up("known")
    assert not quota.is_used_up("stranger-0")


def test_late_updates_of_many_newcomers_are_not_taken_for_a_flood() -> None:
    quota = Quota(is_known=lambda sender: False)
    assert all(quota.pass_over(f"site-{index}") for index in range(MOST_PASSED_OVER))
    assert not quota.pass_over("one-more")
    assert quota.keep("bad")


def test_what_is_dropped_is_counted_by_name_only_for_names_that_had_something_kept() -> None:
    quota = Quota(is_known=lambda sender: False)
    quota.keep("a")
    for name in ("a", "invented-1", "a", "invented-2", "a"):
        quota.drop(name, 10)
    assert quota.take_dropped() == [Dropped("a", 3, 30), Dropped(None, 2, 20)]
    assert quota.take_dropped() == []


# -- a flood --------------------------------------------------------------------------------------------------


def test_a_flood_of_one_sender_leaves_twenty_rows_and_letters_and_a_count_of_the_rest(
    begin: Begin, caplog: pytest.LogCaptureFixture
) -> None:
    run = begin(StateTask(INITIAL))
    hail(run, "bad", num=1000)
    run.fold_all([("a", DELTA), ("b", DELTA)])
    assert run.round == 2
    assert len(run.reasons) == MOST_OF_ONE
    assert run.closed("num_folded, num_refused") == [(2, 1000)]
    rows = run.verdicts("worker, verdict, num_messages, reason")
    assert sum(worker == "bad" for worker, *_ in rows) == MOST_OF_ONE + 1
    assert ("bad", "refused", 980, "980 more messages that did not count; dropped, and most of them unread") in rows
    assert warnings(caplog, "bad") == MOST_OF_ONE + 1
    assert warnings(caplog, "dropping its others unread until the next round") == 1


def test_the_quota_is_there_again_in_the_next_round(begin: Begin) -> None:
    run = begin(StateTask(INITIAL))
    for _ in range(2):
        hail(run, "bad", num=50)
        run.fold_all([("a", DELTA), ("b", DELTA)])
    assert len(run.reasons) == 2 * MOST_OF_ONE
    assert run.closed("num_refused") == [(50,), (50,)]


def test_a_flood_under_invented_names_leaves_a_hundred_rows_and_costs_honest_senders_nothing(
    begin: Begin, caplog: pytest.LogCaptureFixture
) -> None:
    run = begin(StateTask(INITIAL), rounds=2)
    run.fold_all([("a", DELTA), ("b", DELTA)])
    hail(run, *(f"invented-{index}" for index in range(2000)), num=1)
    run.site.send(b"a mistake", worker="a")
    run.settle()
    run.fold_all([("a", DELTA), ("b", DELTA)])
    assert run.aggregator.is_finished
    assert len(run.reasons) == MOST_OF_STRANGERS + 1
    assert run.broker.dead[-1].sender == "a"
    assert run.closed("num_folded, num_refused") == [(2, 0), (2, 2001)]
    refused = run.query("SELECT worker, num_messages FROM updates WHERE verdict = 'refused'")
    assert len(refused) == MOST_OF_STRANGERS + 2
    assert refused.count((None, 1900)) == 1
    assert warnings(caplog, "are only counted until the next round") == 1
    assert warnings(caplog, "invented") == MOST_OF_STRANGERS


def test_an_honest_update_after_a_flood_in_the_same_round_is_folded(begin: Begin) -> None:
    run = begin(StateTask(INITIAL), quorum="1")
    hail(run, *(f"invented-{index}" for index in range(500)), num=1)
    run.fold_all([("newcomer", DELTA)])
    assert run.round == 2


def test_repeated_and_late_updates_of_one_sender_leave_a_bounded_number_of_rows(begin: Begin) -> None:
    run = begin(StateTask(INITIAL), quorum="3")
    run.fold_all([("a", DELTA)])
    for number in range(100):
        run.send("a", DELTA, instance=f"{number:08x}")
    run.settle(most=1000)
    run.fold_all([("b", DELTA), ("c", DELTA)])
    assert run.round == 2
    rows = run.query(
        "SELECT verdict, sum(num_messages), count(*) FROM updates WHERE worker = 'a' GROUP BY 1 ORDER BY 1"
    )
    assert rows == [("duplicate", 20, 20), ("folded", 1, 1), ("refused", 80, 1)]


def test_a_site_whose_old_updates_are_replayed_in_bulk_has_its_new_one_folded(begin: Begin) -> None:
    run = begin(StateTask(INITIAL), quorum="2", rounds=3)
    old = run.update("a", DELTA)
    run.fold_all([("b", DELTA), ("c", DELTA)])
    for _ in range(5 * MOST_OF_ONE):
        run.site.send(old, worker="a")
    run.fold_all([("a", DELTA), ("b", DELTA)])
    assert run.closed("num_folded") == [(2,), (2,)]
    assert len(run.query("SELECT id FROM updates WHERE verdict = 'late'")) == MOST_OF_ONE


def test_of_a_message_that_is_too_long_to_be_an_update_the_beginning_is_kept(begin: Begin) -> None:
    run = begin(StateTask(INITIAL))
    hail(run, "bad", num=1, body=b"x" * 15_000_000)
    (letter,) = run.broker.dead
    assert letter == DeadLetter(
        b"x" * BEGINNING_BYTES,
        "a message of 15000000 bytes; none of this run's updates is that large;"
        " of its 15,000,000 bytes the first 65,536 are kept",
        "bad",
    )
    assert run.verdicts("worker, num_bytes") == [("bad", 15_000_000)]


def test_whole_messages_are_kept_up_to_a_number_of_bytes_a_round(begin: Begin) -> None:
    run = begin(StateTask({"w": torch.zeros(2**20)}), inline_cap=8 * 2**20)
    hail(run, *(f"bad-{index}" for index in range(20)), num=1, body=bytes(4 * 2**20))
    sizes = [len(letter.body) for letter in run.broker.dead]
    assert sizes == [4 * 2**20] * 16 + [BEGINNING_BYTES] * 4


def test_with_too_many_dead_letters_none_is_added_and_the_reason_is_in_the_ledger(
    begin: Begin, caplog: pytest.LogCaptureFixture
) -> None:
    run = begin(StateTask(INITIAL))
    run.broker.dead.extend([DeadLetter(b"", "", "")] * 10_000)
    hail(run, "bad", num=3)
    assert len(run.broker.dead) == 10_000
    assert run.verdicts("reason")[0][0].startswith("not a fedmq message")
    assert warnings(caplog, "look at them with fl-dead") == 1


def test_the_page_shows_how_many_were_refused(begin: Begin) -> None:
    run = begin(StateTask(INITIAL))
    hail(run, "bad", num=1000)
    run.aggregator.finish()
    with History(run.folder) as history:
        shown = overview(history)
        assert history.totals()["updates"] == {"refused": 1000}
        assert history.contributions()[0]["num_refused"] == 1000
    assert shown["open_round"]["num_refused"] == 1000
    assert shown["refused"][0]["num_messages"] == 980
    assert len(shown["refused"]) == MOST_OF_ONE + 1


# -- names that two workers have ------------------------------------------------------------------------------


def test_five_hundred_forged_conflicts_make_two_heads_and_two_warnings(
    begin: Begin, caplog: pytest.LogCaptureFixture
) -> None:
    run = begin(StateTask(INITIAL))
    num_heads = run.broker.num_heads
    for index in range(500):
        for instance in ("aaaaaaaa", "bbbbbbbb", "aaaaaaaa"):
            run.announce(f"invented-{index}", instance=instance)
    assert run.broker.num_heads == num_heads + 1
    run.pass_time(10.0)
    assert run.broker.num_heads == num_heads + 2
    assert len(run.head.name_conflicts) == 500
    assert warnings(caplog, "two workers go by the name") == 2


# -- signs of life --------------------------------------------------------------------------------------------


def test_two_thousand_invented_names_hold_up_the_rounds_of_one_deadline_only(begin: Begin) -> None:
    run = begin(StateTask(INITIAL), quorum="100%", deadline_s=20, rounds=9)
    for name in ("a", "b"):
        run.announce(name)
    run.fold_all([("a", DELTA), ("b", DELTA)])
    assert run.round == 2
    for index in range(2000):
        run.announce(f"invented-{index}")
    run.fold_all([("a", DELTA), ("b", DELTA)])
    assert run.round == 2
    run.pass_time(20.0)
    assert run.round == 3
    for index in range(2000):
        run.announce(f"invented-{index}")
    run.pass_time(1.5)
    for number in (3, 4, 5):
        assert run.round == number
        run.fold_all([("a", DELTA), ("b", DELTA)])
    assert run.closed("closed_by")[1:] == [("deadline",), ("quorum",), ("quorum",), ("quorum",)]
    for index in range(2000):
        run.announce(f"more-{index}")
    run.fold_all([("a", DELTA), ("b", DELTA)])
    assert run.round == 7


def test_a_newcomer_is_waited_for_and_counts_from_its_answer_on(begin: Begin) -> None:
    run = begin(StateTask(INITIAL), quorum="100%", deadline_s=20, rounds=9)
    for name in ("a", "slow"):
        run.announce(name)
    run.fold_all([("a", DELTA)])
    assert run.round == 1
    run.pass_time(20.0)
    assert run.round == 2
    run.pass_time(1.5)
    run.fold_all([("a", DELTA)])
    assert run.round == 3
    run.fold_all([("slow", DELTA)], round=1)
    for name in ("a", "slow"):
        run.announce(name)
    run.fold_all([("a", DELTA)])
    assert run.round == 3
    run.fold_all([("slow", DELTA)])
    assert run.round == 4


# -- in the shards --------------------------------------------------------------------------------------------


def test_a_partial_aggregator_passes_on_a_bounded_part_of_a_flood(tmp_path: Path) -> None:
    run = ShardedRun.make(tmp_path, num_shards=1, quorum="1").start()
    for index in range(500):
        run.send_bytes("bad", b"garbage")
        run.send_bytes(f"invented-{index}", b"garbage")
    run.step_partials()
    senders = [sender for sender, _ in run.waiting()]
    assert senders.count("bad") == MOST_OF_ONE
    assert len(senders) == MOST_OF_STRANGERS
    assert run.left_in_shards() == 0
    run.root.aggregator.close()


def test_forged_messages_do_not_make_an_honest_sender_ignored() -> None:
    """Whoever is not the worker that a message names must not use up that worker's quota."""
    broker = MemoryBroker()
    transport = MemoryTransport(broker)
    rows: list[UpdateRow] = []
    transport.declare()
    transport.listen(Source.UPDATES)
    refusals = Refusals(1, transport, dead="updates.dead", is_known={"honest"}.__contains__, on_row=rows.append)
    for _ in range(50):
        transport.send(b"forged", worker="honest")
        delivery = transport.receive(0)
        assert delivery is not None
        assert not refusals.ignores(delivery)
        refusals.refuse(delivery, "it is not signed", is_by_sender=False)
    refusals.record_dropped()
    assert len(broker.dead) == MOST_OF_ONE
    assert (rows[-1].worker, rows[-1].num_messages) == (None, 30)


def test_garbage_signs_of_life_make_ten_warnings(begin: Begin, caplog: pytest.LogCaptureFixture) -> None:
    run = begin(StateTask(INITIAL))
    for _ in range(100):
        run.site.announce(b"garbage", worker="bad")
    run.settle()
    assert warnings(caplog, "sign of life from 'bad' dropped") == 10


def test_objections_of_one_worker_make_ten_warnings_however_many_it_has(
    begin: Begin, caplog: pytest.LogCaptureFixture
) -> None:
    run = begin(StateTask(INITIAL))
    for number in range(100):
        run.announce("talkative", objection=f"reason {number}")
    assert warnings(caplog, "'talkative' does not answer") == 10
