"""What is found on a broker, and how a person reads it."""

from dataclasses import replace
from typing import Any

import pytest
from unit.rendered import lines_of, text_of

from broker.memory import MemoryBroker, MemoryTransport
from broker.transport import Queued, Source
from broker.wire.codec import encode
from broker.wire.messages import Presence, Status, WorkerStatus
from broker.wire.signatures import Believing, Signer
from broker.wire.topology import Topology
from console.errors import BrokerError, QueueMissing
from console.watching import LinkChanged
from identities import Membership
from operations import status_cli
from operations.snapshot import Condition, Snapshot, take_snapshot
from operations.status_view import plain, shown

AT = 10_000.0
LONG = "a-hospital-with-a-name-of-all-sixty-four-characters-that-may-be0"
ALONE, LED = Queued(0, 0), Queued(0, 1)


def worker(name: str, state: str = "idle", **changes: Any) -> dict[str, Any]:
    fields = {"name": name, "state": state, "round": 3, "progress": 0.0, "seen_at": AT - 4, "has_answered": False}
    return fields | changes


def status(**changes: Any) -> Status:
    fields = {
        "run": "demo",
        "run_id": "demo.1",
        "state": "running",
        "sent_at": AT - 1,
        "round": 3,
        "num_rounds": 20,
        "num_folded": 2,
        "target": 5,
        "num_present": 2,
        "deadline_at": AT + 59,
    }
    return Status.model_validate(fields | changes)


def look(said: Status | None, results: Queued | None = LED, *, num_shards: int = 0, **queued: Queued) -> Snapshot:
    topology = Topology("q", num_shards=num_shards)
    found = {} if results is None else {"q": results}
    return Snapshot(AT, topology, said, found | {f"q.{name.replace('_', '.')}": each for name, each in queued.items()})


FAULT = "NOT_FOUND - home node 'a@b' of durable queue 'q' in vhost '/' is down or inaccessible"


@pytest.mark.parametrize("said", [None, status(sent_at=AT - 3600)])
def test_a_queue_whose_node_is_down_is_told_from_one_that_nobody_reads(said: Status | None) -> None:
    text = plain(look(said, Queued(0, 0, fault=FAULT)))
    assert "unknown, as the broker fails at the results queue" in text
    assert f"q: {FAULT}" in text
    assert "no aggregator leads" in plain(look(said, ALONE))


def test_a_queue_whose_node_is_down_counts_as_led_while_its_aggregator_reports() -> None:
    found = look(status(), Queued(0, 0, fault=FAULT))
    assert found.condition is Condition.RUNNING
    assert found.num_waiting == {}


@pytest.mark.parametrize(
    ("found", "condition"),
    [
        (look(None, ALONE), Condition.UNHEARD),
        (look(None, None), Condition.UNHEARD),
        (look(None, LED), Condition.STARTING),
        (look(status(), LED), Condition.RUNNING),
        (look(status(sent_at=AT - 500), LED), Condition.RUNNING),
        (look(status(), ALONE), Condition.GONE),
        (look(status(), None), Condition.RUNNING),
        (look(status(sent_at=AT - 31), None), Condition.GONE),
        (look(status(state="stopped"), ALONE), Condition.STOPPED),
        (look(status(state="finished"), ALONE), Condition.FINISHED),
        (look(status(state="finished"), LED), Condition.FINISHED),
    ],
)
def test_the_last_word_and_who_reads_the_results_say_how_it_is(found: Snapshot, condition: Condition) -> None:
    assert found.condition is condition
    assert found.is_over is (condition is Condition.FINISHED)


def test_who_does_not_answer_is_told_with_the_reason_in_full_on_any_terminal() -> None:
    reason = "updates of this run are not sealed, which --require asks for; " + "x" * 100
    found = look(status(workers=[worker("anna", objection=reason), worker("bert")]))
    for text in (plain(found), text_of(shown(found), width=60)):
        assert "2 present, 1 of them not answering" in text
        told = text[text.index("anna does not answer") :]
        assert "".join(told.split()) == "".join(f"anna does not answer: {reason}".split())


def test_who_signs_and_how_updates_travel_is_told_where_there_is_a_roster() -> None:
    found = replace(look(status()), signer=Signer("aggregator", "center"), protection=("signed", "sealed"))
    assert "status signed by aggregator center; updates are signed and sealed" in plain(found)
    assert "signed" not in plain(look(status()))


def test_keepers_are_told_by_their_fingerprints() -> None:
    found = replace(look(status()), keepers=(("ethics", "b380-2bd9"), ("council", "9f3a-0c51")))
    assert "ethics b380-2bd9, council 9f3a-0c51" in plain(found)
    assert "keepers" not in plain(look(status()))


def test_times_are_by_the_clock_of_an_aggregator_that_is_there() -> None:
    for minutes in (-90, 0, 90):
        there = AT + minutes * 60
        said = status(sent_at=there - 1, deadline_at=there + 59, workers=[worker("anna", seen_at=there - 4)])
        found = look(said)
        assert there - 1 <= found.at_there <= there + 9
        assert found.deadline_in_s is not None
        assert 50 <= found.deadline_in_s <= 60


def test_a_deadline_has_only_a_round_that_somebody_can_close() -> None:
    assert look(status()).deadline_in_s == 59
    assert look(status(deadline_at=AT - 5)).deadline_in_s == 0
    assert look(status(deadline_at=None)).deadline_in_s is None
    assert look(status(), ALONE).deadline_in_s is None


def test_it_is_read_as_lines_without_an_end_in_blanks_and_nothing_is_cut_off() -> None:
    workers = [worker("anna", "training", progress=0.5), worker(LONG, has_answered=True)]
    found = look(status(workers=workers, num_more_workers=7), Queued(4, 1), dead=Queued(2, 0))
    assert plain(found).splitlines() == [
        "run      demo (demo.1)",
        "round    3 of 20",
        "state    running",
        "updates  2 of 5 folded, deadline in 59 s",
        "workers  2 present",
        "queue    q: 4 waiting",
        "dead     q.dead: 2 set aside; see fl-dead list --queue q",
        "",
        f"{'worker':<64}  state     round  progress  last seen  answered",
        f"{'anna':<64}  training      3       50%    4 s ago",
        f"{LONG}  idle          3              4 s ago  yes",
        "and 7 more workers",
    ]


def test_in_a_narrow_terminal_a_long_name_goes_on_below() -> None:
    found = look(status(workers=[worker(LONG, "training", progress=0.5)]), dead=ALONE)
    lines = lines_of(shown(found), width=80)
    begin = next(number for number, line in enumerate(lines) if " training " in line)
    assert "50%" in lines[begin]
    assert "".join(line.split(" ")[0] for line in lines[begin:]) == LONG


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (look(None, ALONE), "no aggregator leads here, and none has reported since the broker started"),
        (look(None, LED), "an aggregator leads; it has not reported yet"),
        (
            look(status(sent_at=AT - 300), LED),
            "last reported 5 min ago: the broker accepts nothing, or the clocks differ",
        ),
        (look(status(sent_at=AT - 40), ALONE), "no aggregator leads: the last one is gone, it reported 40 s ago"),
        (look(status(state="stopped", sent_at=AT - 7200), ALONE), "stopped 2 h ago; its command goes on from there"),
        (look(status(state="stopped"), LED), "stopped 1 s ago; an aggregator leads again"),
        (look(status(state="finished", sent_at=AT - 60), ALONE), "finished 60 s ago"),
        (look(status(), None), "q: there is none, or this user may not see it"),
    ],
)
def test_each_condition_has_a_line_of_its_own(found: Snapshot, words: str) -> None:
    assert words in plain(found)
    assert words in text_of(shown(found), width=120)


def test_a_shard_that_nobody_sums_up_is_told() -> None:
    found = look(status(num_shards=2), num_shards=2, shard_0=Queued(9, 0), shard_1=Queued(0, 1))
    assert "queue    q.shard.0: 9 waiting; no partial aggregator takes them\n" in plain(found)
    assert "queue    q.shard.1: 0 waiting\n" in plain(found) + "\n"


def test_what_went_wrong_is_one_line_and_no_markup() -> None:
    found = Snapshot(AT, Topology("q"), problem="[bold]away\x1b[2J\n", queued={"q": LED})
    for text in (plain(found), text_of(shown(found), width=120)):
        assert "[bold]away\\x1b[2J\\n; this is what was there before" in text


# -- looking ------------------------------------------------------------------------------------------------


def test_a_look_takes_nothing_away() -> None:
    broker = MemoryBroker()
    aggregator = MemoryTransport(broker, queue="q")
    aggregator.declare()
    aggregator.listen(Source.UPDATES, Source.PRESENCE)
    aggregator.send(b"update", worker="a")
    aggregator.send_status(encode(status()))
    for _ in range(2):
        found = take_snapshot(MemoryTransport(broker, queue="q"), Topology("q"), Believing())
        assert found.status == status()
        assert found.queued == {"q": Queued(1, 1), "q.dead": Queued(0, 0)}
    assert aggregator.receive(0) is not None


def test_before_an_aggregator_was_there_it_is_said_that_none_was() -> None:
    with pytest.raises(QueueMissing, match="no queue 'q': no aggregator was ever started for it"):
        take_snapshot(MemoryTransport(MemoryBroker(), queue="q"), Topology("q"), Believing())


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"forged <script>",
        encode(Presence(worker="a", instance="00112233", state="idle")),
        encode(status())[:-70],
        encode(status().model_copy(update={"run": "[red]\x1b[2J"})),
        encode(status().model_copy(update={"workers": (WorkerStatus.model_construct(**worker("\x1b[2J")),)})),
    ],
)
def test_what_is_not_an_aggregators_is_refused_with_one_line_that_can_be_printed(body: bytes) -> None:
    broker = MemoryBroker()
    transport = MemoryTransport(broker, queue="q")
    transport.declare()
    transport.send_status(body)
    with pytest.raises(BrokerError, match=r"the message in q\.statuses is not an aggregator's: ") as refused:
        take_snapshot(transport, Topology("q"), Believing())
    assert str(refused.value).isprintable()


def test_while_the_broker_is_away_what_was_seen_last_is_shown_and_nothing_is_asked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(status_cli, "_EVERY_S", 0.0)
    asked = [look(status()), look(status(state="finished"))]
    monkeypatch.setattr(status_cli, "take_snapshot", lambda transport, topology, trust: asked.pop(0))
    link = status_cli._LinkState()
    looks = status_cli._snapshots(MemoryTransport(MemoryBroker()), Topology("q"), Membership(), link, watch=True)
    assert next(looks).problem is None
    link.on_link(LinkChanged(name="writer", problem="no broker at …; trying again"))
    for _ in range(3):
        seen = next(looks)
        assert (seen.status, seen.problem) == (status(), "no broker at …; trying again")
    link.on_link(LinkChanged(name="writer", problem=None))
    assert [(seen.condition, seen.problem) for seen in looks] == [(Condition.FINISHED, None)]


def test_who_took_part_in_a_finished_run_has_left() -> None:
    busy = worker("hospital-a", "training", progress=0.75)
    text = plain(look(status(state="finished", workers=[busy])))
    assert "left" in text
    assert "75%" not in text
    assert "75%" in plain(look(status(workers=[busy])))


def test_a_run_that_is_paused_says_so() -> None:
    assert "paused: the open round stays open until fl-run resume" in plain(look(status(is_paused=True)))


@pytest.mark.parametrize(
    ("state", "results", "lacks"),
    [("stopped", ALONE, True), ("stopped", LED, False), ("finished", ALONE, False), ("running", ALONE, True)],
)
def test_an_unfinished_run_without_an_aggregator_is_told_apart(state: str, results: Queued, lacks: bool) -> None:
    assert status_cli._lacks_aggregator(look(status(state=state), results)) is lacks
