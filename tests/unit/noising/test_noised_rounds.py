"""A run whose models have noise: how much, what it costs, and that a kill neither forgets a cost nor draws twice."""

import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from unit.aggregator.embedded_run import EmbeddedRun, StateTask, state_of

from aggregator import History
from aggregator.history import overview
from aggregator.history.model_card import model_card
from aggregator.settings import AggregatorSettings
from broker.states.tensors import State
from console import SettingsError, StateError, settings_of
from privacy import epsilon_of

NUM = 4000
INITIAL = state_of(w=torch.zeros(NUM), b=torch.zeros(3))
DP: dict[str, Any] = {"dp_clip": "1.0", "dp_noise": 2.0, "dp_epsilon": 8.0, "dp_delta": 1e-5, "min_updates": 2}
RELEASES_OF_8 = 11
"""z = 2 and delta 1e-5 keep within epsilon 8 so often: 11 / 4 = 2.75 of 2.776."""


def delta(value: float) -> State:
    """Of this norm."""
    return state_of(w=torch.full((NUM,), value / math.sqrt(NUM)), b=torch.zeros(3))


def begin(folder: Path, **changes: Any) -> EmbeddedRun:
    return EmbeddedRun.make(folder, StateTask(INITIAL), **(DP | {"rounds": 30} | changes)).start()


def send_both(run: EmbeddedRun) -> None:
    run.fold_all([("a", delta(0.5)), ("b", delta(-0.5))], train_s=0.0)


def noise_in(run: EmbeddedRun) -> np.ndarray[Any, Any]:
    return np.concatenate([run.model["w"].double().numpy(), run.model["b"].double().numpy()])


def test_a_model_has_noise_of_the_announced_size_and_the_row_says_what_it_cost(tmp_path: Path) -> None:
    run = begin(tmp_path)
    assert run.head.privacy is not None
    assert (run.head.privacy.clip, run.head.privacy.noise, run.head.privacy.num_releases) == (1.0, 2.0, 0)
    send_both(run)
    noise = noise_in(run) * 2  # of the sum; the updates cancel out
    assert abs(noise.std() / 2.0 - 1) < 5 / math.sqrt(2 * NUM)
    assert abs(noise.mean()) < 5 * 2.0 / math.sqrt(NUM)
    assert run.head.privacy.num_releases == 1
    assert run.head.privacy.spent == 0.25
    row = run.aggregator._ledger.round(1)
    assert row["privacy"]["noise"]["epsilon"] == pytest.approx(epsilon_of(1e-5, 0.5))
    assert row["privacy"]["noise"]["unit"] == "one worker, zeroed out or not"


def test_the_run_ends_when_the_budget_is_spent_and_says_so(tmp_path: Path) -> None:
    run = begin(tmp_path)
    for _ in range(RELEASES_OF_8):
        assert run.aggregator.is_running
        send_both(run)
    assert run.aggregator.is_finished
    assert run.summary["stopped"].startswith("privacy budget is spent: epsilon ")
    assert len(run.query("SELECT * FROM releases")) == RELEASES_OF_8
    again = run.crash().start()
    assert again.aggregator.is_finished


def test_what_an_earlier_run_spent_counts(tmp_path: Path) -> None:
    run = begin(tmp_path, dp_spent=2.25)
    for _ in range(2):
        send_both(run)
    assert run.aggregator.is_finished
    with pytest.raises(SettingsError, match="does not allow a single model"):
        settings_of(AggregatorSettings, DP | {"dp_spent": 2.7})


def test_a_kill_after_the_set_is_decided_draws_the_same_noise_and_charges_once(tmp_path: Path) -> None:
    run = begin(tmp_path / "killed", seed=1)

    def dies(*arguments: Any, **named: Any) -> None:
        raise KeyboardInterrupt

    run.aggregator._ledger.close_round = dies  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        send_both(run)
    assert len(run.query("SELECT * FROM releases")) == 1
    noised = next((tmp_path / "killed" / "models").glob("*.tmp"), None)
    drawn = None if noised is None else noised.read_bytes()
    again = run.crash().start()
    again.send("c", delta(0.25), train_s=0.0)  # comes too late for this set
    again.settle()
    assert again.round == 2
    assert drawn in (None, (tmp_path / "killed" / "models" / "round-00001.safetensors").read_bytes())
    (charged,) = again.query("SELECT round, noise, clip FROM releases")
    assert charged == (1, 2.0, 1.0)
    assert [row for row in again.verdicts() if row[0] == "c"] == [("c", "late")]


def test_who_takes_over_without_the_ledger_goes_on_from_the_head_and_one_model_more(tmp_path: Path) -> None:
    run = begin(tmp_path / "first")
    for _ in range(3):
        send_both(run)
    run.aggregator.close()
    other = EmbeddedRun.make(
        tmp_path / "other", StateTask(INITIAL), broker=run.broker, **(DP | {"rounds": 30, "take_over": True})
    ).start()
    assert other.head.privacy is not None
    assert other.head.privacy.spent == 3 * 0.25 + 0.25
    without = {name: value for name, value in DP.items() if not name.startswith("dp")}
    third = EmbeddedRun.make(tmp_path / "third", StateTask(INITIAL), broker=run.broker, take_over=True, **without)
    other.aggregator.close()
    with pytest.raises(StateError, match="has noise"):
        third.start()


@pytest.mark.parametrize("has_secret", [True, False])
def test_who_takes_over_with_the_secret_draws_the_noise_that_the_first_would_have_drawn(
    tmp_path: Path, has_secret: bool
) -> None:
    run = begin(tmp_path / "first")
    send_both(run)
    run.aggregator.close()
    shutil.copytree(tmp_path / "first", tmp_path / "goes on")
    first = begin(tmp_path / "goes on")
    if has_secret:
        (tmp_path / "other").mkdir()
        shutil.copy2(tmp_path / "first" / "noise.secret", tmp_path / "other")
    other = run.taken_over(tmp_path / "other").start()
    models = []
    for each in (first, other):
        send_both(each)
        models.append((each.folder / "models" / "round-00002.safetensors").read_bytes())
        each.aggregator.close()
    assert (models[0] == models[1]) == has_secret


def test_the_same_sum_has_the_same_noise_in_any_order_and_another_sum_another(tmp_path: Path) -> None:
    def model(name: str, updates: list[tuple[str, State]], secret: bytes) -> bytes:
        folder = tmp_path / name
        run = EmbeddedRun.make(folder, StateTask(INITIAL), **DP)
        folder.mkdir(exist_ok=True)
        path = folder / "noise.secret"
        path.write_bytes(secret)
        path.chmod(0o600)
        run.start()
        ledger = run.aggregator._ledger
        ledger.record({"run_id": "federation.00000000"})
        run = run.crash().start()
        run.fold_all(updates, train_s=0.0)
        return (folder / "models" / "round-00001.safetensors").read_bytes()

    both = [("a", delta(0.5)), ("b", delta(-0.25))]
    first = model("first", both, b"s" * 32)
    assert model("second", both[::-1], b"s" * 32) == first
    assert model("third", [("a", delta(0.5)), ("b", delta(-0.5))], b"s" * 32) != first
    assert model("fourth", both, b"t" * 32) != first


def test_an_update_longer_than_the_clip_is_set_aside_with_its_norm(tmp_path: Path) -> None:
    run = begin(tmp_path)
    run.send("a", delta(1.001), train_s=0.0)
    run.settle()
    (reason,) = run.reasons
    assert "its norm is 1.001, and this run clips updates to 1" in reason
    run.fold_all([("a", delta(1.0))], train_s=0.0)
    assert run.num_folded == 1


def test_of_a_whole_number_no_norm_is_known(tmp_path: Path) -> None:
    run = EmbeddedRun.make(tmp_path, StateTask(state_of(w=[0.0], seen=3)), **DP)
    with pytest.raises(SettingsError, match="'seen' counts in whole numbers"):
        run.start()


def test_an_adaptive_clip_follows_the_share_that_is_within_it_and_is_kept(tmp_path: Path) -> None:
    changes = {"dp_clip": "adaptive:0.5:0.8", "min_updates": 100, "quorum": "100", "dp_noise": 1.0, "dp_epsilon": 50.0}
    run = begin(tmp_path, **changes)
    assert run.head.figures == ("within",)
    updates = [(f"site-{index}", delta(0.5)) for index in range(100)]
    run.fold_all(updates, train_s=0.0, figures={"within": 1.0})
    assert run.head.privacy is not None
    clip = run.head.privacy.clip
    assert 0.8 * math.exp(-0.2 * 0.5) * 0.99 <= clip < 0.8  # all were within: it shrinks, as far as the noise lets it
    again = run.crash().start()
    assert again.head.privacy is not None
    assert again.head.privacy.clip == clip


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"dp_noise": None}, "--dp-noise is missing"),
        ({"dp_clip": "adaptive:1.5"}, "a quantile between 0 and 1"),
        ({"dp_clip": "-1"}, "a norm is above 0"),
        ({"weighting": "samples"}, "only if all weigh the same"),
        ({"max_staleness": 1}, "twice"),
        ({"dp_clip": "adaptive:0.5", "min_updates": 5}, "needs at least"),
        ({"compression": "int8"}, "may be longer"),
    ],
    ids=lambda value: str(value),
)
def test_what_would_not_be_private_is_refused_before_it_begins(changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(SettingsError, match=reason):
        settings_of(AggregatorSettings, {name: value for name, value in (DP | changes).items() if value is not None})


def test_epsilon_stands_beside_every_figure_with_its_delta_and_its_unit(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    run = begin(tmp_path)
    for _ in range(RELEASES_OF_8):
        send_both(run)
    spoken = "at delta 1e-05 (unit: one worker, zeroed out or not; 11 releases)"
    assert any("round  11 ↻" in message and spoken in message for message in caplog.messages)
    assert run.summary["privacy"]["noise"]["unit"] == "one worker, zeroed out or not"
    with History(tmp_path) as history:
        assert history.rounds()[-1]["epsilon"] == pytest.approx(epsilon_of(1e-5, math.sqrt(11 / 4)))
        tiles = {label: value for value, label in overview(history)["tiles"]}
        shown = overview(history)
    assert tiles["epsilon of 8 at delta 1e-05: one worker, zeroed out or not; 11 releases at noise 2"] == "7.96"
    assert [(row["num_samples"], row["mean_train_s"]) for row in shown["workers"]] == [(None, None)] * 2
    assert (shown["tells_of_sites"], shown["figures"]["timeline"]["bars"]) == (False, [])


def test_what_updates_do_not_say_is_recorded_as_not_said_and_a_card_says_what_was_spent(tmp_path: Path) -> None:
    run = begin(tmp_path, rounds=2)
    send_both(run)
    send_both(run)
    assert set(run.query("SELECT num_samples, train_s FROM updates")) == {(None, None)}
    assert [each["num_samples"] for each in run.summary["rounds"]] == [None, None]
    with History(tmp_path) as history:
        assert [row["num_samples"] for row in history.rounds()] == [None, None]
        card = model_card(history, "last")
    epsilon = f"{epsilon_of(1e-5, math.sqrt(2 / 4)):.3g}"
    assert f"\n- {epsilon} epsilon of 8 at delta 1e-05: one worker, zeroed out or not; 2 releases at noise 2\n" in card
    assert "| a | 2 |\n" in card


def test_with_another_secret_than_its_own_a_run_adds_no_second_noise(tmp_path: Path) -> None:
    run = begin(tmp_path)
    send_both(run)
    (tmp_path / "noise.secret").unlink()
    with pytest.raises(StateError, match="put that one back"):
        send_both(run)
