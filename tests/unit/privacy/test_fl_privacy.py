"""``fl-privacy``: figures that can be copied, beside what they mean; and what goes wrong in one line."""

import json
import re

import pytest

from console import ExitCode
from privacy import Budget
from privacy.planning.cli import main


def said(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    assert main(argv) == ExitCode.OK
    return capsys.readouterr().out


def figures(capsys: pytest.CaptureFixture[str], *argv: str) -> dict[str, float]:
    found: dict[str, float] = json.loads(said(capsys, *argv, "--json"))
    return found


def test_epsilon_for_a_noise_is_printed_with_delta_unit_and_both_adjacencies(
    capsys: pytest.CaptureFixture[str],
) -> None:
    lines = said(capsys, "--noise", "5", "--rounds", "50", "--delta", "1e-5").splitlines()
    assert lines[:2] == [
        "epsilon   6.5730 at delta 1e-05 (unit: one worker, zeroed out or not; 50 releases)",
        "          15.4562 at delta 1e-05 (unit: one worker, replaced by any other; 50 releases)",
    ]
    assert "mu^2      2.0: what the next run on the same data is given as --dp-spent" in lines


def test_the_noise_that_is_printed_for_an_epsilon_lasts_for_the_rounds_when_it_is_copied(
    capsys: pytest.CaptureFixture[str],
) -> None:
    asked = ("--epsilon", "8", "--rounds", "50", "--delta", "1e-5")
    (noise,) = re.findall(r"^noise +(\S+) times the clip", said(capsys, *asked), re.MULTILINE)
    assert noise == "4.2443"
    assert Budget(clip=1, noise=float(noise), epsilon=8, delta=1e-5).releases_left == 50
    assert figures(capsys, *asked)["noise"] == 4.2443


def test_noise_that_drowns_the_updates_is_said_plainly(capsys: pytest.CaptureFixture[str]) -> None:
    asked = ("--noise", "4.244260472", "--rounds", "50", "--parameters", "10000", "--workers")
    for workers, ratio in (("8", 53), ("100", 4.2), ("1000", 0.42)):
        found = figures(capsys, *asked, workers)
        assert found["noise_to_signal"] == pytest.approx(ratio, rel=0.02)
        assert found["is_drowned"] == (ratio > 1)
    assert "it drowns them: this run will learn nothing. It takes 425 workers" in said(capsys, *asked, "8")
    assert "drowns" not in said(capsys, *asked, "1000")


def test_a_delta_that_costs_a_worker_is_said_plainly(capsys: pytest.CaptureFixture[str]) -> None:
    asked = ("--noise", "1", "--rounds", "5", "--parameters", "10", "--workers", "100", "--delta")
    assert "0.02 is no less than one in 100 workers" in said(capsys, *asked, "0.02")
    assert "no less than one in" not in said(capsys, *asked, "1e-5")


def test_a_second_run_on_the_same_data_begins_with_what_the_first_spent(capsys: pytest.CaptureFixture[str]) -> None:
    first = figures(capsys, "--noise", "5", "--rounds", "30")
    second = figures(capsys, "--noise", "5", "--rounds", "20", "--dp-spent", str(first["mu2"]))
    assert second["epsilon"] == pytest.approx(6.572970067030, abs=1e-11)
    assert "mu^2 1.2 spent before" in said(capsys, "--noise", "5", "--rounds", "20", "--dp-spent", "1.2")


@pytest.mark.parametrize(
    ("argv", "problem"),
    [
        ("--rounds 3", "give --noise, to learn epsilon, or --epsilon, to learn the noise"),
        ("--rounds 3 --noise 5 --epsilon 8", "give --noise, to learn epsilon, or --epsilon"),
        ("--noise 5", "--rounds: Field required"),
        ("--noise 0 --rounds 3", "--noise: Input should be greater"),
        ("--noise inf --rounds 3", "--noise: Input should be"),
        ("--epsilon nan --rounds 3", "--epsilon: Input should be"),
        ("--noise 5 --rounds 3 --delta 1", "--delta: Input should be less than 1"),
        ("--noise 5 --rounds 3 --workers 3", "--workers and --parameters are given together"),
        ("--epsilon 1 --rounds 5 --dp-spent 2", "what was spent before is epsilon 6.5730 already"),
        ("--epsilon 1e-9 --rounds 1000000", "in which nothing is left to see"),
    ],
)
def test_what_makes_no_sense_is_one_line(capsys: pytest.CaptureFixture[str], argv: str, problem: str) -> None:
    assert main(argv.split()) == ExitCode.USAGE
    shown = capsys.readouterr()
    assert shown.out == ""
    assert problem in shown.err
    assert shown.err.count("\n") == 1
