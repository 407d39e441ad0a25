"""What workers carry fits to what the server keeps: after late updates, kills, losses, and all of it at random."""

import random
from pathlib import Path

import pytest
from unit.corrections.federation import NAMES, PAIRS, Federation, pairs

from console.errors import SettingsError
from worker.config import WorkerConfig
from worker.service import Worker

CORRECTIONS = [("scaffold", "control_sum"), ("feddyn:alpha=1", "moved_sum")]


def assert_fits(run: Federation, name: str) -> None:
    """Equal to the last bit."""
    assert run.server_sum(name) == run.sum_of_kept()


@pytest.mark.parametrize(("correction", "name"), CORRECTIONS)
def test_a_late_update_leaves_its_worker_where_it_was(tmp_path: Path, correction: str, name: str) -> None:
    run = Federation.make(tmp_path, correction=correction)
    run.rounds_of(pairs(6))
    before = run.carried("site-0").sets["correction"]["x"].clone()
    run.answer(1, 2, 0)  # two are enough
    assert ("site-0", "late") in run.run.verdicts()
    assert run.carried("site-0").sets["correction"]["x"].equal(before)
    run.rounds_of(pairs(20))
    assert_fits(run, name)


def test_after_a_late_update_scaffold_still_goes_to_the_minimum(tmp_path: Path) -> None:
    run = Federation.make(tmp_path, correction="scaffold")
    run.rounds_of(pairs(6))
    run.answer(1, 2, 0)
    assert run.rounds_of(pairs(54))[-1] == pytest.approx(0.7, abs=1e-9)


@pytest.mark.parametrize(("correction", "name"), CORRECTIONS)
def test_a_worker_that_lost_what_it_carried_has_all_begin_anew(
    tmp_path: Path, correction: str, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    run = Federation.make(tmp_path, correction=correction)
    run.rounds_of(pairs(6))
    run.lose("site-0")
    run.answer(0, 1)
    assert "what was carried out of round 3 is lost" in caplog.text
    assert "round 7: site-0 lost what the correction" in caplog.text
    assert (run.run.head.control_epoch, run.server_sum(name), run.sum_of_kept()) == (1, 0, 0)
    assert run.run.query("SELECT worker FROM updates WHERE is_fresh") == [("site-0",)]
    run.answer(2, 3)
    assert run.server_sum(name) != 0
    assert_fits(run, name)
    for chosen in pairs(6):
        run.answer(*chosen)
        assert run.run.head.control_epoch == 1
        assert_fits(run, name)


def test_after_a_loss_scaffold_goes_to_the_minimum_and_without_a_new_epoch_it_would_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def end(folder: str) -> float:
        run = Federation.make(tmp_path / folder, correction="scaffold", quorum=4)
        run.rounds_of([(0, 1, 2, 3)] * 12)
        run.lose("site-0")
        return run.rounds_of([(0, 1, 2, 3)] * 28)[-1]

    assert end("as it is") == pytest.approx(0.7, abs=1e-6)
    monkeypatch.setattr("aggregator.corrections.Counting.lost", lambda *arguments: [])
    assert abs(end("without") - 0.7) > 0.02


def test_a_newcomer_that_was_never_counted_lost_nothing(tmp_path: Path) -> None:
    run = Federation.make(tmp_path, correction="scaffold")
    run.rounds_of([(0, 1)] * 2)
    run.answer(2, 3)
    assert run.run.head.control_epoch == 0
    assert_fits(run, "control_sum")


@pytest.mark.parametrize(("correction", "name"), CORRECTIONS)
def test_killed_at_every_place_the_model_is_the_same(tmp_path: Path, correction: str, name: str) -> None:
    def digest(folder: str, crash_after: int | None) -> str:
        run = Federation.make(tmp_path / folder, correction=correction, commit_every_s=1e-15)
        place = 0
        for chosen in pairs(4):
            for index in chosen:
                run.answer(index)
                if place == crash_after:
                    run.crash()
                    for each in NAMES:
                        run.restart(each)
                place += 1
        [(sha256,)] = run.run.query("SELECT model_sha256 FROM rounds WHERE round = 4")
        return str(sha256)

    expected = digest("undisturbed", None)
    assert {digest(f"killed-{place}", place) for place in range(7)} == {expected}


def test_an_abandoned_round_moves_nobodys_state(tmp_path: Path) -> None:
    run = Federation.make(tmp_path, correction="scaffold", quorum=3, deadline_s=5.0, min_updates=2, on_short="abandon")
    run.rounds_of([(0, 1, 2)] * 2)
    before = (run.server_sum(), run.sum_of_kept())
    run.answer(0)
    run.run.pass_time(6.0)
    assert run.run.closed()[-1] == (3, "abandoned")
    assert (run.server_sum(), run.sum_of_kept()) == before
    run.answer(0, 1, 3)
    assert_fits(run, "control_sum")


def test_a_withdrawn_update_leaves_its_worker_where_it_was(tmp_path: Path) -> None:
    listed = tmp_path / "workers.txt"
    listed.write_text("\n".join(NAMES))
    run = Federation.make(tmp_path, correction="scaffold", quorum=3, workers_allowed=str(listed))
    run.rounds_of([(0, 1, 2)] * 2)
    before = run.carried("site-0").sets["correction"]["x"].clone()
    run.answer(0, 1)
    aggregator = run.run.aggregator
    aggregator._course.admission.exclude({"site-0": 0})
    aggregator._current.withdraw(aggregator._course.admission)
    run.answer(2, 3)
    assert ("site-0", "withdrawn") in run.run.verdicts()
    assert run.carried("site-0").sets["correction"]["x"].equal(before)
    assert_fits(run, "control_sum")


def test_a_damaged_sum_has_its_round_done_again_with_what_the_workers_had_before_it(tmp_path: Path) -> None:
    run = Federation.make(tmp_path, correction="scaffold")
    run.rounds_of([(0, 1)] * 3)
    (run.run.folder / "models" / "round-00003.control_sum.safetensors").unlink()
    run.crash()
    assert run.run.round == 3
    run.answer(0, 1)
    run.answer(0, 2)
    assert run.run.head.control_epoch == 0
    assert_fits(run, "control_sum")


def test_a_run_that_is_taken_over_from_the_stream_begins_its_control_variates_anew(tmp_path: Path) -> None:
    run = Federation.make(tmp_path, correction="scaffold")
    run.rounds_of([(0, 1)] * 3)
    run.run.aggregator.close()
    fields = {"rounds": 1000, "lr": 0.05, "momentum": 0.0, "epochs": 5, "quorum": "2", "correction": "scaffold"}
    run.run = run.run.make(tmp_path / "other", run.run.task, broker=run.run.broker, take_over=True, **fields).start()
    assert (run.run.head.control_epoch, run.control, run.sum_of_kept()) == (1, 0, 0)
    assert run.run.head.last_counted("site-0") == 3
    run.rounds_of([(0, 1), (1, 2)])
    assert run.run.head.control_epoch == 1
    assert_fits(run, "control_sum")


def test_a_worker_that_would_lose_its_state_when_it_is_restarted_does_not_take_part(tmp_path: Path) -> None:
    run = Federation.make(tmp_path, correction="scaffold")
    config = WorkerConfig(name="forgetful", topology=run.run.topology, inline_cap=2**23)
    worker = Worker(config, run.tasks["site-0"], type(run.run.site)(run.run.broker))
    worker.start()
    with pytest.raises(SettingsError, match=r"has --correction scaffold, .* give --state DIR"):
        worker.step()


@pytest.mark.parametrize("seed", range(20))
def test_the_sums_fit_whatever_happens(tmp_path: Path, seed: int) -> None:
    """Workers and aggregator are killed, updates come twice, late, or never; one loses what it carried."""
    chance = random.Random(seed)
    correction, name = CORRECTIONS[seed % 2]
    run = Federation.make(tmp_path, correction=correction)
    loser = chance.randrange(4) if seed % 4 < 2 else None
    has_lost = False
    for number in range(8):
        chosen = list(chance.choice(PAIRS))
        if chance.random() < 0.3:
            chosen.append(chance.choice([index for index in range(4) if index not in chosen]))  # one is late
        for index in chance.sample(chosen, len(chosen)):
            if chance.random() < 0.2:
                run.kill_while_sending(index)
            if chance.random() < 0.2:
                run.restart(NAMES[index])
            run.workers[NAMES[index]].step()
            if chance.random() < 0.2:
                run.send_again()
            if chance.random() < 0.3:
                run.run.settle()
            if chance.random() < 0.2:
                run.crash()
        run.run.settle()
        if number == 4 and loser is not None:
            has_lost = run.run.head.last_counted(NAMES[loser]) is not None
            run.lose(NAMES[loser])
        if run.run.round > 1 and (not has_lost or run.run.head.control_epoch == 1):
            assert_fits(run, name)
    assert run.run.round > 6
    while has_lost and run.run.head.control_epoch == 0:
        run.answer(loser, (loser + 1) % 4)
    assert_fits(run, name)
