"""Rounds in which only some take part: who is waited for, whose update counts, and what a restart does."""

from pathlib import Path
from typing import Any

import pytest
from embedded_run import EmbeddedRun, StateTask, state_of
from sharded_run import ShardedRun, names_of, some_state

from aggregator.presence.sample import Sample, next_draw
from broker.wire.codec import encode
from broker.wire.headers.participation import Draw, threshold_of_share
from broker.wire.messages import Command, Reply

pytestmark = pytest.mark.timeout(60)

ONE = state_of(w=[2.0])
NAMES = [f"worker-{index}" for index in range(20)]
LONG_ENOUGH_S = 10.1


def run_in(folder: Path, *, sample: str | None = "0.25", **changes: Any) -> EmbeddedRun:
    fields = {"quorum": "100%", "sample": sample, "commit_every_s": 1e-15} | changes
    return EmbeddedRun.make(folder, StateTask(state_of(w=[1.0])), **fields).start()


def with_workers(run: EmbeddedRun, names: list[str] = NAMES) -> EmbeddedRun:
    for name in names:
        run.announce(name)
    return run


def chosen(run: EmbeddedRun, names: list[str] = NAMES) -> list[str]:
    return [name for name in names if run.head.chooses(name)]


def others(run: EmbeddedRun, names: list[str] = NAMES) -> list[str]:
    return [name for name in names if not run.head.chooses(name)]


def answer_all(run: EmbeddedRun, names: list[str]) -> None:
    run.fold_all([(name, state_of(w=[float(len(name) + index)])) for index, name in enumerate(names)])


# -- a share ----------------------------------------------------------------------------------------------------


def test_a_round_closes_with_those_chosen_and_waits_for_nobody_else(tmp_path: Path) -> None:
    run = with_workers(run_in(tmp_path))
    assert run.head.draw == Draw(number=1, threshold=threshold_of_share(0.25))
    assert 2 < len(chosen(run)) < 10
    *first, last = chosen(run)
    answer_all(run, first)
    assert run.round == 1
    answer_all(run, [last])
    assert run.round == 2
    number = len(first) + 1
    assert run.closed("num_folded, num_chosen, num_unselected") == [(number, number, 0)]


def test_the_model_is_not_in_the_head_so_that_others_are_spared_it(tmp_path: Path) -> None:
    run = with_workers(run_in(tmp_path))
    before = run.head.blob
    assert before is not None
    answer_all(run, chosen(run))
    assert run.head.blob is not None
    assert run.head.blob != before
    assert set(run.broker.blobs) == {before.name, run.head.blob.name}


def test_a_run_of_everybody_has_its_model_in_the_head(tmp_path: Path) -> None:
    run = run_in(tmp_path, sample=None)
    assert (run.head.blob, run.head.draw) == (None, None)


def test_an_update_of_one_not_chosen_is_acked_recorded_and_moves_nothing(tmp_path: Path) -> None:
    run = with_workers(run_in(tmp_path))
    stranger = others(run)[0]
    answer_all(run, [stranger])
    assert run.num_folded == 0
    assert not run.broker.dead
    assert run.verdicts("worker, verdict, reason, num_samples") == [
        (stranger, "unselected", "its worker was not chosen for round 1", 1)
    ]


def test_one_not_chosen_that_sends_on_and_on_leaves_few_rows(tmp_path: Path) -> None:
    run = with_workers(run_in(tmp_path))
    stranger = others(run)[0]
    for _ in range(1000):
        run.send(stranger, ONE)
    run.settle(most=5000)
    rows = dict(run.query("SELECT verdict, count(*) FROM updates GROUP BY verdict"))
    assert 0 < rows["unselected"] <= 100
    answer_all(run, chosen(run))
    ((number,),) = run.query(f"SELECT sum(num_messages) FROM updates WHERE worker = '{stranger}'")
    assert number == 1000


def test_an_answer_without_tensors_of_one_not_chosen_excuses_nobody(tmp_path: Path) -> None:
    run = with_workers(run_in(tmp_path, quorum="2"))
    fields = {"run_id": run.head.run_id, "instance": "0123456789abcdef", "round": 1, "model_sha256": run.head.sha256}
    stranger = others(run)[0]
    reply = Reply.model_validate(fields | {"worker": stranger, "outcome": "diverged", "reason": "NaN", "sent_at": 1.0})
    run.site.send(encode(reply), worker=stranger)
    run.settle()
    answer_all(run, chosen(run)[:1])
    assert run.round == 1
    assert (stranger, "unselected") in run.verdicts()


def test_a_late_joiner_is_judged_by_the_same_draw(tmp_path: Path) -> None:
    run = with_workers(run_in(tmp_path), NAMES[:10])
    early, late = chosen(run, NAMES[:10]), chosen(run, NAMES[10:])
    assert early
    assert late
    with_workers(run, NAMES[10:])
    answer_all(run, early)
    assert run.round == 1
    answer_all(run, late)
    assert run.round == 2


def two_not_in_draw_1() -> list[str]:
    draw = next_draw(Sample.parse("0.25"), (), seed=0, round_number=1)
    return [name for name in NAMES if not draw.chooses(name, seed=0, round_number=1)][:2]


def test_nobody_chosen_is_nobody_waited_for_once_those_there_had_time_to_say_so(tmp_path: Path) -> None:
    names = two_not_in_draw_1()
    run = with_workers(run_in(tmp_path), names)
    assert run.head.draw == Draw(number=1, threshold=threshold_of_share(0.25))
    body = run.head.blob
    run.pass_time(LONG_ENOUGH_S)
    assert run.round == 1
    assert run.head.draw is not None
    assert run.head.draw.number > 1
    assert run.head.blob == body
    assert chosen(run, names)
    answer_all(run, chosen(run, names))
    assert run.round == 2
    assert chosen(run, names), "from then on it is known who is there, and a round opens with a draw that chooses one"


def test_who_was_chosen_by_a_draw_that_was_replaced_counts_all_the_same(tmp_path: Path) -> None:
    run = run_in(tmp_path)
    early = chosen(run)[0]
    update = run.update(early, ONE)
    with_workers(run, two_not_in_draw_1()).pass_time(LONG_ENOUGH_S)
    assert run.head.draw is not None
    assert run.head.draw.number > 1
    run.site.send(update, worker=early)
    run.settle()
    assert (early, "folded") in run.verdicts()


# -- a count ----------------------------------------------------------------------------------------------------


def test_a_count_waits_until_it_is_known_who_is_there_and_trains_nobody_before(tmp_path: Path) -> None:
    run = with_workers(run_in(tmp_path, sample="5"))
    assert run.head.draw == Draw(number=0, threshold=0)
    assert chosen(run) == []
    run.pass_time(LONG_ENOUGH_S)
    assert run.round == 1
    assert chosen(run) == [f"worker-{index}" for index in (1, 2, 6, 16, 17)]
    answer_all(run, chosen(run))
    assert run.round == 2
    assert len(chosen(run)) == 5, "those present are known when the second round opens"


def test_a_count_of_more_than_are_there_takes_those_that_are(tmp_path: Path) -> None:
    run = with_workers(run_in(tmp_path, sample="5"), NAMES[:3])
    run.pass_time(LONG_ENOUGH_S)
    assert chosen(run, NAMES[:3]) == NAMES[:3]
    answer_all(run, NAMES[:3])
    assert run.round == 2


def test_a_count_with_nobody_there_begins_with_the_first_that_comes(tmp_path: Path) -> None:
    run = run_in(tmp_path, sample="5", deadline_s=60.0)
    run.pass_time(200.0)
    assert (run.round, run.head.draw) == (1, Draw(number=0, threshold=0))
    with_workers(run, ["a"]).pass_time(LONG_ENOUGH_S)
    answer_all(run, ["a"])
    assert run.round == 2


def test_of_those_asked_beyond_what_is_enough_none_is_waited_for(tmp_path: Path) -> None:
    run = with_workers(run_in(tmp_path, sample="4x1.5", rounds=2))
    run.pass_time(LONG_ENOUGH_S)
    asked = chosen(run)
    assert len(asked) == 6
    updates = [run.update(name, ONE) for name in asked]
    for name, update in zip(asked, updates, strict=True):
        run.site.send(update, worker=name)
    run.settle()
    assert run.closed("num_folded, num_chosen") == [(4, 6)]
    assert dict(run.verdicts()) == dict.fromkeys(asked[:4], "folded") | dict.fromkeys(asked[4:], "late")


# -- restarts ---------------------------------------------------------------------------------------------------


def finished(run: EmbeddedRun, *, crashes: bool) -> str:
    """The digest of the last model, with a crash before each update, or with none."""
    for number in (1, 2, 3):
        with_workers(run)
        if not chosen(run):  # a restart does not know yet who is there
            run.pass_time(LONG_ENOUGH_S)
        drawn, names = run.head.draw, chosen(run)
        for name in names:
            if crashes:
                run = with_workers(run.crash().start())
                assert run.head.draw == drawn
            run.send(name, state_of(w=[float(NAMES.index(name))]))
            run.settle()
            if run.head.round != number:
                break
    assert run.head.is_finished
    return run.head.sha256


@pytest.mark.parametrize("sample", ["0.25", "5", "4x1.5"])
def test_a_restarted_aggregator_has_the_same_take_part_and_ends_with_the_same_bits(tmp_path: Path, sample: str) -> None:
    digests = set()
    for folder, crashes in (("whole", False), ("killed", True)):
        run = with_workers(run_in(tmp_path / folder, sample=sample, rounds=3))
        run.pass_time(LONG_ENOUGH_S)
        digests.add(finished(run, crashes=crashes))
    assert len(digests) == 1


def test_a_draw_that_was_recorded_but_not_sent_goes_out_after_a_restart(tmp_path: Path) -> None:
    run = with_workers(run_in(tmp_path), two_not_in_draw_1())
    before = run.broker.heads[-1]
    run.pass_time(LONG_ENOUGH_S)
    drawn = run.head.draw
    run.broker.heads.append(before)
    assert run.head.draw != drawn
    run = run.crash().start()
    assert run.head.draw == drawn


def test_after_a_restart_a_round_does_not_close_before_its_workers_are_heard_of_again(tmp_path: Path) -> None:
    run = with_workers(run_in(tmp_path))
    answer_all(run, chosen(run))
    assert len(chosen(run)) > 1
    run = run.crash().start()
    answer_all(run, chosen(run)[:1])
    assert run.round == 2
    run.pass_time(40.0)
    assert run.round == 3, "the others are gone"


# -- commands, shards, the end ----------------------------------------------------------------------------------


def test_the_sample_of_later_rounds_can_be_set_while_the_run_goes_on(tmp_path: Path) -> None:
    run = with_workers(run_in(tmp_path, rounds=4))
    fields = {"id": "0" * 32, "run_id": run.head.run_id, "verb": "set", "sent_at": 1.0}
    run.site.send_command(encode(Command.model_validate(fields | {"words": ("sample=0.5",)})))
    run.settle()
    answer_all(run, chosen(run))
    assert run.head.draw is not None
    assert run.head.draw.threshold == threshold_of_share(0.5)
    late = [(name, run.update(name, ONE, round=1)) for name in others(run)[:1]]
    again = Command.model_validate(fields | {"id": "1" * 32, "words": ("sample=none",)})
    run.site.send_command(encode(again))
    run.settle()
    answer_all(run, chosen(run))
    assert (run.round, run.head.draw, run.head.blob) == (3, None, None)
    for name, update in late:
        run.site.send(update, worker=name)
    answer_all(run, NAMES)
    assert run.closed("round, num_chosen")[2] == (3, None)


def test_a_partial_passes_on_what_one_not_chosen_sends_and_sums_the_others(tmp_path: Path) -> None:
    run = ShardedRun.make(tmp_path, sample="0.5", quorum="100%", rounds=2)
    run.start()
    names = names_of(0, 20) + names_of(1, 20)
    for name in names:
        run.root.announce(name)
    head = run.root.head
    taking_part = [name for name in names if head.chooses(name)]
    stranger = next(name for name in names if not head.chooses(name))
    run.send(stranger, some_state(1))
    run.settle()
    for index, name in enumerate(taking_part):
        run.send(name, some_state(index))
    run.pass_time()
    assert run.root.round == 2
    verdicts = dict(run.root.query("SELECT worker, verdict FROM updates"))
    assert verdicts == dict.fromkeys(taking_part, "folded") | {stranger: "unselected"}


def test_the_summary_says_how_many_took_part(tmp_path: Path) -> None:
    run = with_workers(run_in(tmp_path, rounds=1))
    answer_all(run, [*others(run)[:1], *chosen(run)])
    (row,) = run.summary["rounds"]
    assert (row["chosen"], row["unselected"], row["folded"]) == (row["folded"], 1, row["chosen"])
    assert run.head.is_finished
    assert run.head.chooses(NAMES[0])
    assert all(run.head.chooses(name) for name in NAMES), "the last model is everybody's"


def test_the_draws_of_a_closed_round_are_looked_up_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = with_workers(run_in(tmp_path, max_staleness=2, rounds=5))
    late = others(run)[:3]
    answer_all(run, chosen(run))
    assert run.round == 2
    asked = []
    draws = run.aggregator._ledger.draws
    monkeypatch.setattr(run.aggregator._ledger, "draws", lambda number: asked.append(number) or draws(number))
    for name in late:
        run.send(name, state_of(w=[1.0]), round=1)
    run.settle()
    assert [verdict for name, verdict in run.verdicts() if name in late] == ["unselected"] * 3
    assert asked.count(1) == 1
