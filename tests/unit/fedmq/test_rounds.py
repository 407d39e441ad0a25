"""A training script's loop over fedmq.rounds(model): with a real aggregator, on the embedded broker."""

import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from script_run import Run
from torch import Tensor, nn

import fedmq
import worker.joining
from console import SettingsError, TaskError

pytest_plugins = ["script_run_plugin"]
pytestmark = pytest.mark.timeout(60)
POINTS = torch.eye(2)


class Line(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(2))

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs @ self.weight


class AnyModel:
    """What the aggregator needs of a task."""

    def model(self) -> nn.Module:
        return Line()

    def train(self, model: nn.Module, plan: object) -> dict[str, float]:
        raise NotImplementedError

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        return {}


def fails_in_its_first_round(rounds: Iterator[fedmq.Round]) -> None:
    for _ in rounds:
        raise ZeroDivisionError


def test_a_script_trains_the_newest_model_in_place_and_its_optimizer_lives_on(run: Run) -> None:
    run.begins(AnyModel(), rounds=3)
    model = Line()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, weight_decay=0.0)
    numbers = []
    for round in fedmq.rounds(model, name="site-a", evaluate=lambda model: {"weight": float(model.weight.sum())}):
        optimizer.zero_grad()
        (1.0 - model(POINTS)).square().mean().backward()
        optimizer.step()
        assert round.send(num_samples=2, metrics={"loss": 0.5})
        numbers.append((round.number, round.plan.lr))
    assert numbers == [(1, 0.5), (2, 0.5), (3, 0.5)]
    assert optimizer.state[model.weight]["step"] == 3
    run.ends()
    rows = run.history()
    assert [row["train.loss"] for row in rows] == [0.5] * 3
    assert len(rows) == 3
    assert run.signs_of_life[-1] == "leaving"


def test_the_same_seed_gives_the_same_random_numbers_in_a_round(run: Run) -> None:
    run.begins(AnyModel(), rounds=1)
    for round in fedmq.rounds(Line(), name="site-a"):
        drawn = torch.rand(3)
        torch.manual_seed(round.plan.seed)
        assert torch.equal(drawn, torch.rand(3))
        round.send(num_samples=1)


def test_a_round_that_is_over_while_the_script_trains_sends_nothing_and_says_so(run: Run) -> None:
    run.begins(AnyModel(), rounds=2, deadline_s=0.05)
    sent = []
    for round in fedmq.rounds(Line(), name="site-a"):
        while not round.cancelled():
            threading.Event().wait(0.005)
        sent.append(round.send(num_samples=1))
    assert sent
    assert not any(sent)


def test_a_script_that_goes_on_without_sending_is_told(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    run.begins(AnyModel(), rounds=1, deadline_s=0.5)
    for _ in fedmq.rounds(Line(), name="site-a"):
        pass
    assert (
        "no update of 'site-a': the script went on to the next round without round.send(num_samples=…)" in caplog.text
    )


def test_a_script_that_trains_another_model_is_told(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    run.begins(AnyModel(), rounds=1)
    for round in fedmq.rounds(Line(), name="site-a"):
        round.send(num_samples=1)
    assert "the model given to fedmq.rounds() has not changed; does the script train another one?" in caplog.text


def test_what_is_no_plain_tensor_in_the_state_dict_is_no_hindrance(run: Run) -> None:
    class Odd(Line):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("few", torch.eye(2).to_sparse())

        def get_extra_state(self) -> str:
            return "not a tensor"

        def set_extra_state(self, state: str) -> None:
            assert state == "not a tensor"

    run.begins(AnyModel(), rounds=1)
    assert [round.send(num_samples=1) for round in fedmq.rounds(Odd(), name="site-a")] == [True]


def test_a_break_leaves(run: Run) -> None:
    run.begins(AnyModel())
    for _ in fedmq.rounds(Line(), name="site-a"):
        break
    assert not [thread for thread in threading.enumerate() if thread.name in ("worker", "heartbeat")]
    assert run.signs_of_life[-1] == "leaving"


def test_an_exception_of_the_script_s_is_its_own_and_leaves(run: Run) -> None:
    run.begins(AnyModel())
    with pytest.raises(ZeroDivisionError):
        fails_in_its_first_round(fedmq.rounds(Line(), name="site-a"))
    assert run.signs_of_life[-1] == "leaving"


def test_an_exception_while_the_script_measures_is_its_own_and_leaves(run: Run) -> None:
    def broken(model: nn.Module) -> dict[str, float]:
        raise KeyError("no test data")

    run.begins(AnyModel())
    with pytest.raises(KeyError, match="no test data"):  # it is measured before it is trained
        fails_in_its_first_round(fedmq.rounds(Line(), name="site-a", evaluate=broken))
    assert run.signs_of_life[-1] == "leaving"


def test_a_model_that_is_not_the_run_s_ends_the_loop_with_an_error(run: Run) -> None:
    run.begins(AnyModel())
    with pytest.raises(TaskError, match="has no tensor 'bias'"):
        next(iter(fedmq.rounds(nn.Linear(3, 1), name="site-a")))


def test_a_num_samples_that_is_no_weight_ends_the_loop_with_an_error(run: Run) -> None:
    run.begins(AnyModel())
    round = next(rounds := fedmq.rounds(Line(), name="site-a"))
    with pytest.raises(TaskError, match="num_samples"):
        round.send(num_samples=0)
    with pytest.raises(TaskError, match="num_samples"):
        next(rounds)


def test_a_round_has_one_update(run: Run) -> None:
    run.begins(AnyModel(), rounds=1)
    for round in fedmq.rounds(Line(), name="site-a"):
        assert round.send(num_samples=1)
        with pytest.raises(TaskError, match="round 1 was sent before"):
            round.send(num_samples=1)


def test_sigterm_ends_the_loop_and_the_script_goes_on_with_its_own_handlers(run: Run) -> None:
    before = signal.getsignal(signal.SIGTERM)
    run.begins(AnyModel())
    sent = []
    for round in fedmq.rounds(Line(), name="site-a"):
        os.kill(os.getpid(), signal.SIGTERM)
        assert round.cancelled()
        sent.append(round.send(num_samples=1))
    assert sent == [False]
    assert signal.getsignal(signal.SIGTERM) is before


def test_settings_come_from_keywords_then_environment_then_file(
    run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "site.yaml").write_text("worker: {name: of-the-file, queue: other}\nqueue: of-the-file\n")
    monkeypatch.setenv("FEDMQ_QUEUE", "of-the-environment")
    seen = []
    monkeypatch.setattr(
        worker.joining,
        "connect",
        lambda settings, **kwargs: seen.append(settings) or run.transport(),
    )
    run.begins(AnyModel(), rounds=1)
    for round in fedmq.rounds(Line(), config=tmp_path / "site.yaml", broker="amqp://guest:guest@localhost:1/"):
        round.send(num_samples=1)
    (settings,) = seen
    assert (settings.own_name, settings.queue) == ("of-the-file", "of-the-environment")
    assert settings.broker.get_secret_value() == "amqp://guest:guest@localhost:1/"


def test_settings_that_make_no_sense_are_told_together() -> None:
    with pytest.raises(SettingsError, match=r"--name.*--nonsense|--nonsense.*--name"):
        next(iter(fedmq.rounds(Line(), name="a b", nonsense=1)))
