"""``--evaluate-only`` with the commands, over RabbitMQ."""

from pathlib import Path

import pytest
from federation import Federation
from safetensors.torch import save_model
from torch import nn

pytest_plugins = ["federation_plugin"]
pytestmark = pytest.mark.timeout(300)  # of which an idle machine needs ten seconds

JUDGE = """
from torch import nn


class Judge:
    def __init__(self, site):
        self.value = None if site.name is None else float(site.args["accuracy"])

    def model(self):
        return nn.Linear(3, 2)

    def train(self, model, plan):
        raise RuntimeError("nothing is to be trained")

    def evaluate(self, model):
        return {} if self.value is None else {"accuracy": self.value, "num_samples": 10 * self.value}
"""


def test_workers_measure_a_file_and_a_killed_aggregator_goes_on_with_that(
    federation: Federation, tmp_path: Path
) -> None:
    task, init = tmp_path / "judge.py", tmp_path / "model.safetensors"
    task.write_text(JUDGE, encoding="utf-8")
    save_model(nn.Linear(3, 2), str(init))
    reference = f"{task}:Judge"
    flags = ("--evaluate-only", "--init", str(init), "--quorum", "2", "--commit-every-s", "0.05")
    aggregator = federation.aggregator(*flags, task=reference)
    first = federation.worker("a", "--task-arg", "accuracy=0.3", task=reference)
    federation.wait_for_verdict("measured", "a", 1)
    aggregator.kill()

    again = federation.aggregator(*flags, task=reference)
    second = federation.worker("b", "--task-arg", "accuracy=0.9", task=reference)

    assert [again.ends(), first.ends(), second.ends()] == [0, 0, 0]
    evaluation = federation.summary["evaluation"]
    assert evaluation["workers"] == {
        "a": {"accuracy": 0.3, "num_samples": 3.0},
        "b": {"accuracy": 0.9, "num_samples": 9.0},
    }
    assert evaluation["mean"] == {"accuracy": pytest.approx(0.75)}
    assert "mean, weighted by samples" in again.said
    assert federation.folded() == []


def test_without_a_file_it_is_one_line_and_the_exit_code_of_a_state(federation: Federation) -> None:
    aggregator = federation.aggregator("--evaluate-only")
    assert aggregator.ends() == 6
    assert "--evaluate-only needs a model" in aggregator.said
