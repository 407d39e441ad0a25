"""What people ask of a running aggregator: done once, at a point of commit, and still done after a kill."""

import json
import secrets
from pathlib import Path
from typing import Any

import pytest
from embedded_run import EmbeddedRun, StateTask, state_of
from sharded_run import ShardedRun, names_of
from unit.rendered import text_of

from aggregator.commands.standing import Standing
from aggregator.events import CommandTaken, Event, RoundMoved
from aggregator.senders.admission import Allowed
from aggregator.senders.exclusion import Excluding
from aggregator.watchers.status import StatusBoard
from aggregator.watchers.view import AggregatorView
from broker.wire.codec import encode
from broker.wire.messages import Command
from console.errors import LeadershipLost, SettingsError

INITIAL = state_of(weight=[0.0, 0.0])
ONE, TWO = state_of(weight=[1.0, 0.0]), state_of(weight=[0.0, 1.0])


@pytest.fixture
def events() -> list[Event]:
    return []


@pytest.fixture
def run(tmp_path: Path, events: list[Event]) -> EmbeddedRun:
    return EmbeddedRun.make(tmp_path / "run", StateTask(INITIAL), rounds=5, on_event=events.append).start()


def command(run: EmbeddedRun, text: str, **fields: Any) -> Command:
    verb, *words = text.split()
    known = {"id": secrets.token_hex(16), "run_id": run.head.run_id, "sent_at": 1.0}
    return Command(verb=verb, words=tuple(words), **(known | fields))


def tell(run: EmbeddedRun, text: str, **fields: Any) -> tuple[bool, str]:
    """Tells it, lets it be done; whether it was accepted, and the answer."""
    asked = command(run, text, **fields)
    run.site.send_command(encode(asked))
    run.settle()
    (row,) = run.query(f"SELECT is_accepted, result FROM commands WHERE id = '{asked.id}'")
    return bool(row[0]), str(row[1])


def answer(run: EmbeddedRun, *workers: str) -> None:
    run.fold_all([(worker, ONE if number % 2 else TWO) for number, worker in enumerate(workers)])


def restarted(run: EmbeddedRun, **changes: Any) -> EmbeddedRun:
    """The next aggregator after a kill, perhaps with other settings."""
    again = run.crash()
    if changes:
        again.aggregator.close()
        settings = run.settings.model_dump(exclude={"broker"}) | changes
        again = EmbeddedRun.make(run.folder, run.task, broker=run.broker, clock=run.clock, **settings)
    return again.start()


def test_what_is_asked_is_in_the_ledger_with_its_answer_and_acked(run: EmbeddedRun, events: list[Event]) -> None:
    assert tell(run, "pause") == (
        True,
        "paused in round 1: updates are folded, and neither quorum nor deadline ends it",
    )
    assert run.query("SELECT round, sender, text, is_accepted FROM commands") == [(1, None, "pause", 1)]
    assert [event.row.text for event in events if isinstance(event, CommandTaken)] == ["pause"]
    assert not run.broker.queues["commands"]
    assert not run.aggregator._transport._unacked_commands


def test_what_is_delivered_twice_is_done_once(run: EmbeddedRun) -> None:
    body = encode(command(run, "extend 10"))
    for _ in range(3):
        run.site.send_command(body)
    run.settle()
    assert run.query("SELECT text, result FROM commands") == [("extend 10", "the run has 15 rounds; round 1 is open")]
    assert not run.aggregator._transport._unacked_commands


def test_a_kill_between_the_commit_and_the_ack_does_it_once(run: EmbeddedRun, monkeypatch: pytest.MonkeyPatch) -> None:
    def die(*args: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(run.aggregator._transport, "ack", die)
    run.site.send_command(encode(command(run, "extend 10")))
    with pytest.raises(KeyboardInterrupt):
        run.settle()
    monkeypatch.undo()
    again = restarted(run)
    again.settle()
    assert again.query("SELECT text FROM commands") == [("extend 10",)]
    assert again.aggregator._config.ending.rounds == 15


def test_a_kill_before_the_commit_does_it_after_the_restart(run: EmbeddedRun, monkeypatch: pytest.MonkeyPatch) -> None:
    def die(*args: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("aggregator.state.ledger.Ledger.take_command", die)
    run.site.send_command(encode(command(run, "pause")))
    with pytest.raises(KeyboardInterrupt):
        run.settle()
    monkeypatch.undo()
    again = restarted(run)
    assert not again.query("SELECT text FROM commands")
    again.settle()
    assert again.query("SELECT text FROM commands") == [("pause",)]


def test_an_aggregator_that_no_longer_leads_does_nothing(run: EmbeddedRun) -> None:
    other = EmbeddedRun.make(run.folder, run.task, broker=run.broker, rounds=5).start()
    run.site.send_command(encode(command(run, "pause")))
    with pytest.raises(LeadershipLost):
        run.settle()
    assert not run.query("SELECT text FROM commands")
    other.aggregator.close()


def test_while_paused_updates_are_folded_and_no_round_ends(run: EmbeddedRun) -> None:
    run.pass_time(100.0)
    tell(run, "pause")
    answer(run, "a", "b", "c")
    run.pass_time(10_000.0)
    assert (run.round, run.num_folded) == (1, 3)
    assert run.aggregator._current._round.deadline_at is not None


def test_a_run_that_is_paused_wants_no_workers(run: EmbeddedRun, events: list[Event]) -> None:
    def num_wanted() -> int:
        run.settle()
        return [event.num_wanted for event in events if isinstance(event, RoundMoved)][-1]

    before = num_wanted()
    tell(run, "pause")
    assert (before > 0, num_wanted()) == (True, 0)
    tell(run, "resume")
    assert num_wanted() == before


def test_after_a_pause_a_round_has_as_much_time_as_it_had_left(tmp_path: Path) -> None:
    run = EmbeddedRun.make(tmp_path / "run", StateTask(INITIAL), quorum="3", deadline_s=100.0).start()
    answer(run, "a")
    run.pass_time(60.0)
    tell(run, "pause")
    run.pass_time(1000.0)
    assert tell(run, "resume") == (True, "round 1 goes on, with as much time as it had left")
    run.pass_time(39.0)
    assert run.round == 1
    run.pass_time(1.0)
    assert run.round == 2


def test_a_run_is_still_paused_after_a_restart(run: EmbeddedRun) -> None:
    tell(run, "pause")
    again = restarted(run)
    answer(again, "a", "b")
    again.pass_time(10_000.0)
    assert (again.round, again.num_folded) == (1, 2)
    tell(again, "resume")
    assert again.round == 2


def test_stop_ends_the_aggregator_and_its_command_goes_on(run: EmbeddedRun) -> None:
    answer(run, "a")
    accepted, text = tell(run, "stop")
    assert accepted
    assert "its command goes on from there" in text
    assert not run.aggregator.is_running
    assert not run.aggregator.is_finished
    run.stop()
    again = EmbeddedRun.make(run.folder, run.task, broker=run.broker, rounds=5).start()
    again.settle()
    assert again.aggregator.is_running
    assert again.num_folded == 1


def test_finish_ends_the_run_with_the_open_round(run: EmbeddedRun) -> None:
    answer(run, "a", "b")
    assert tell(run, "finish") == (True, "the run is finished once round 2 is closed")
    answer(run, "a", "b")
    assert run.aggregator.is_finished
    assert run.head.is_finished
    assert (run.head.round, len(run.closed())) == (3, 2)
    assert run.summary["stopped"] == "asked to finish (fl-run finish) after round 2 of 5"


def test_finish_now_closes_the_open_round_with_what_is_folded(run: EmbeddedRun) -> None:
    answer(run, "a")
    assert tell(run, "finish now") == (True, "round 1 is closed with 1 updates, and the run is finished")
    assert run.closed() == [(1, "command")]
    assert run.head.is_finished
    assert run.model["weight"].tolist() == [0.0, 1.0]


def test_finish_now_without_enough_updates_ends_with_the_last_model(run: EmbeddedRun) -> None:
    answer(run, "a", "b")
    accepted, text = tell(run, "finish now")
    assert accepted
    assert text.startswith("the run is finished with the model after round 1")
    assert run.aggregator.is_finished
    assert (run.head.round, run.head.is_finished) == (2, True)
    assert run.summary["final"]["round"] == 1


@pytest.mark.parametrize("text", ["finish", "finish now"])
def test_a_run_that_was_finished_stays_so_and_goes_on_with_more_rounds(run: EmbeddedRun, text: str) -> None:
    answer(run, "a", "b")
    tell(run, text)
    if text == "finish":
        answer(run, "a", "b")
    done = len(run.closed())
    again = restarted(run)
    assert again.aggregator.is_finished
    further = restarted(again, rounds=6)
    assert further.aggregator.is_running
    assert (further.round, further.head.is_finished, further.head.num_rounds) == (done + 1, False, 6)


def test_finish_resumes_a_run_that_is_paused(run: EmbeddedRun) -> None:
    tell(run, "pause")
    answer(run, "a", "b")
    tell(run, "finish")
    assert run.aggregator.is_finished


def test_settings_change_with_the_next_round_and_heads_carry_them(run: EmbeddedRun) -> None:
    assert tell(run, "set lr=0.01 quorum=1 deadline-s=none") == (
        True,
        "from round 2 on: lr 0.01 (0.05 before), quorum 1 (2 before), deadline_s none (600.0 before)",
    )
    assert run.head.local.lr == 0.05
    answer(run, "a")
    assert run.round == 1
    answer(run, "b")
    assert (run.round, run.head.local.lr) == (2, 0.01)
    answer(run, "a")
    assert run.round == 3
    assert run.aggregator._current._round.deadline_at is None


def test_arguments_of_the_task_change_with_the_next_round(run: EmbeddedRun) -> None:
    accepted, text = tell(run, "set plan_args=temperature=0.5,mode=fast")
    assert (accepted, text.partition(" (")[0]) == (True, "from round 2 on: plan_args temperature=0.5,mode=fast")
    assert run.head.local.plan_args == {}
    answer(run, "a", "b")
    assert run.head.local.plan_args == {"temperature": "0.5", "mode": "fast"}
    again = restarted(run)
    assert again.aggregator._config.local.plan_args == {"temperature": "0.5", "mode": "fast"}
    assert tell(again, "set plan-args=none")[0]
    answer(again, "a", "b")
    assert again.head.local.plan_args == {}


def test_the_factor_of_the_server_changes_with_the_next_round_also_over_a_kill(run: EmbeddedRun) -> None:
    tell(run, "set server_lr=0.5")
    again = restarted(run)
    answer(again, "a", "b")
    assert again.model["weight"].tolist() == [0.5, 0.5]
    last = restarted(again)
    answer(last, "a", "b")
    assert last.model["weight"].tolist() == [0.75, 0.75]


def test_settings_that_were_changed_stay_so_unless_a_start_says_otherwise(run: EmbeddedRun) -> None:
    tell(run, "set lr=0.01 epochs=7")
    answer(run, "a", "b")
    again = restarted(run)
    assert (again.aggregator._config.local.lr, again.aggregator._config.local.epochs) == (0.01, 7)
    other = restarted(again, lr=0.2)
    assert (other.aggregator._config.local.lr, other.aggregator._config.local.epochs) == (0.2, 7)


def test_rounds_record_the_settings_that_they_ran_with(run: EmbeddedRun) -> None:
    answer(run, "a", "b")
    tell(run, "set lr=0.01")
    answer(run, "a", "b")
    answer(run, "a", "b")
    tell(run, "finish")
    answer(run, "a", "b")
    stored = [None if text is None else json.loads(text)["lr"] for (text,) in run.closed("settings")]
    assert stored == [0.05, None, 0.01, None]
    assert run.summary["settings_by_round"][0]["from_round"] == 1
    assert run.summary["settings_by_round"][0]["settings"]["lr"] == 0.05
    assert run.summary["settings_by_round"][1:] == [{"from_round": 3, "settings": {"lr": 0.01}}]
    assert run.summary["settings"]["lr"] == 0.01
    assert [entry["text"] for entry in run.summary["commands"]] == ["set lr=0.01", "finish"]


def test_a_round_that_was_open_at_a_restart_records_what_its_head_said(run: EmbeddedRun) -> None:
    again = restarted(run, lr=0.2)
    answer(again, "a", "b")
    answer(again, "a", "b")
    assert [json.loads(text)["lr"] for (text,) in again.closed("settings")] == [0.05, 0.2]


def test_who_is_excluded_is_neither_folded_nor_waited_for(tmp_path: Path) -> None:
    run = EmbeddedRun.make(tmp_path / "run", StateTask(INITIAL), quorum="100%").start()
    for name in ("a", "b", "c"):
        run.announce(name)
    assert tell(run, "exclude c lab-*") == (True, "excluded: c, lab-*")
    answer(run, "c", "lab-7")
    assert run.reasons == [f"worker '{name}' is excluded (fl-run exclude)" for name in ("c", "lab-7")]
    answer(run, "a", "b")
    assert run.round == 2
    assert tell(run, "include c") == (True, "excluded: lab-*")
    answer(run, "c")
    assert run.num_folded == 1


def test_an_update_of_who_is_excluded_is_taken_out_where_bodies_are_kept(tmp_path: Path) -> None:
    listed = tmp_path / "list"
    listed.write_text("*\n")
    run = EmbeddedRun.make(tmp_path / "run", StateTask(INITIAL), workers_allowed=str(listed))
    run.aggregator._course.admission = Excluding(Allowed(str(listed), clock=run.clock))
    run.start()
    answer(run, "a")
    tell(run, "exclude a")
    assert run.num_folded == 0
    assert run.query("SELECT worker, verdict FROM updates") == [("a", "withdrawn")]


def test_an_update_that_cannot_be_taken_out_is_named_in_the_answer(run: EmbeddedRun) -> None:
    answer(run, "a")
    assert tell(run, "exclude a")[1] == "excluded: a; what a sent for round 1 still counts in it"
    assert run.num_folded == 1
    answer(run, "b")
    answer(run, "a")
    assert run.num_folded == 0


def test_with_shards_a_round_that_was_open_counts_and_the_next_one_leaves_out_who_is_excluded(tmp_path: Path) -> None:
    names = names_of(0, 3, num_shards=1)
    run = ShardedRun.make(tmp_path / "run", num_shards=1, quorum="3").start()
    asked = command(run.root, f"exclude {names[0]}")
    run.root.site.send_command(encode(asked))
    run.root.settle()
    run.answer(names)
    run.pass_time()
    assert run.root.closed("round, num_folded") == [(1, 3)]
    assert run.root.head.excluded == (names[0],)
    run.answer(names)
    run.pass_time()
    assert run.root.num_folded == 2
    assert run.root.reasons == [f"worker '{names[0]}' is excluded (fl-run exclude)"]


def test_the_rounds_of_a_run_that_is_extended_are_told_at_once(run: EmbeddedRun, events: list[Event]) -> None:
    tell(run, "extend 2")
    board, view = StatusBoard(), AggregatorView()
    for event in events:
        board.on_event(event)
        view.on_event(event)
    status = board.status()
    assert status is not None
    assert status.num_rounds == 7
    assert "0 of 7" in text_of(view)


def test_a_run_that_is_extended_has_more_rounds_also_after_a_restart(run: EmbeddedRun) -> None:
    tell(run, "extend 2")
    again = restarted(run)
    for _ in range(6):
        answer(again, "a", "b")
    assert again.aggregator.is_running
    assert again.head.num_rounds == 7
    answer(again, "a", "b")
    assert again.aggregator.is_finished


REFUSED = {
    "set": "set takes settings, such as lr=0.01",
    "set lr": "'lr' is no setting; expected name=value",
    "set lr=-1": "--lr: Input should be greater than 0 (given: '-1')",
    "set quorum=0": "--quorum: expected a count such as 3",
    "set seed=3": "'seed' cannot change while the run goes on; what can: epochs, batch_size, lr",
    "set plan_args=hot": "--plan-arg: expected name=value, not 'hot'",
    "extend ten": "extend takes a number of rounds",
    "extend 2147483647": "a run has at most 2147483647 rounds",
    "include a": "a: not excluded; excluded: nobody",
    "exclude a.b": "'a.b' is no name of a worker and no pattern",
    "pause now": "pause takes nothing more",
    "finish later": "finish takes nothing, or --now",
    "dance": "this aggregator knows no command 'dance'; it knows pause, resume",
}


@pytest.mark.parametrize("text", REFUSED)
def test_what_makes_no_sense_is_refused_with_its_reason_and_recorded(run: EmbeddedRun, text: str) -> None:
    accepted, answer = tell(run, text)
    assert not accepted
    assert answer.startswith(REFUSED[text])
    assert run.aggregator._run.steering.standing.as_fact() == Standing().as_fact()


def test_a_command_for_another_run_does_nothing(run: EmbeddedRun) -> None:
    accepted, text = tell(run, "finish", run_id="other.0a1b2c3d")
    assert not accepted
    assert text.startswith("it is for run other.0a1b2c3d, and this one is federation.")


@pytest.mark.parametrize("body", [b"", b"nonsense", b"x" * 2**17])
def test_what_is_no_command_is_set_aside_with_its_reason(run: EmbeddedRun, body: bytes) -> None:
    run.site.send_command(body)
    run.settle()
    assert len(run.reasons) == 1
    assert not run.query("SELECT text FROM commands")
    assert not run.aggregator._transport._unacked_commands


def test_fewer_rounds_than_are_done_are_refused_at_the_start(run: EmbeddedRun) -> None:
    answer(run, "a", "b")
    answer(run, "a", "b")
    with pytest.raises(SettingsError, match="--rounds 1 is fewer than the 2 rounds that are done: give at least 2"):
        restarted(run, rounds=1)
