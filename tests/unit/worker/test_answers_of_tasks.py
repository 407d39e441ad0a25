"""What a task may return from train and evaluate, and the one line for what it may not."""

from collections import OrderedDict
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from unit.simulation.small_federation import SmallFederation

from aggregator.opening import CentralEvaluation
from broker.modules.model_tensors import ModelTensors
from console.errors import TaskError
from learning import Plan
from learning.metrics import numbers_of
from worker.rounds.trainer import Trainer

PLAN = Plan(round=1, seed=7, lr=0.1)


@pytest.mark.parametrize(
    ("value", "number"),
    [
        (1, 1.0),
        (True, 1.0),
        (0.5, 0.5),
        (Decimal("0.5"), 0.5),
        (np.float32(0.5), 0.5),
        (np.int64(3), 3.0),
        (np.array(0.5), 0.5),
        (np.array([0.5]), 0.5),
        (torch.tensor(0.5), 0.5),
        (torch.tensor([[3]]), 3.0),
        (torch.tensor(0.5, requires_grad=True), 0.5),
        (torch.tensor(0.5, dtype=torch.bfloat16), 0.5),
    ],
)
def test_a_number_of_any_kind_is_a_metric(value: Any, number: float) -> None:
    given = numbers_of(OrderedDict(loss=value), "evaluate")
    assert given == {"loss": number}
    assert type(given["loss"]) is float


def test_nan_and_infinity_are_numbers() -> None:
    given = numbers_of({"loss": float("nan"), "best": torch.tensor(float("inf"))}, "train")
    assert np.isnan(given["loss"])
    assert given["best"] == float("inf")


@pytest.mark.parametrize(
    ("value", "what"),
    [
        (None, "None"),
        ("0.5", "a str, '0.5'"),
        ([0.5], r"a list, \[0.5\]"),
        ({"a": 1}, r"a dict, \{'a': 1\}"),
        (torch.ones(2, 3), r"a Tensor of shape \[2, 3\]"),
        (np.ones(4), r"a ndarray of shape \[4\]"),
        (1j, "a complex, 1j"),
        (10**400, "an int, 10000"),
        ([0] * 1000, "a list, .{40}…;"),
    ],
)
def test_what_is_no_number_is_named_with_its_metric(value: Any, what: str) -> None:
    with pytest.raises(TaskError, match=rf"the task's evaluate\(\) returned the metric 'f1' as {what}.*one number"):
        numbers_of({"loss": 0.5, "f1": value}, "evaluate")


@pytest.mark.parametrize(
    ("returned", "what"),
    [
        (None, "None; expected names and numbers, such as"),
        (0.5, "a float, 0.5; expected"),
        ([1, 2], r"a list, \[1, 2\]; expected"),
        (([np.ones(2)], 10, {}), r"a tuple of \(list, int, dict\); .*, and no more: the model is trained in place"),
        ((0.5, 10, {"accuracy": 1.0}), r"a tuple of \(float, int, dict\); .*, and no more"),
        ({0: 0.5}, "a metric called 0, an int, 0; names are text"),
    ],
)
def test_an_answer_that_is_no_mapping_of_names_is_told_what_is_expected(returned: Any, what: str) -> None:
    class Answers:
        def model(self) -> nn.Module:
            return nn.Linear(1, 1)

        def train(self, model: nn.Module, plan: Plan) -> Any:
            return returned

        def evaluate(self, model: nn.Module) -> Any:
            return returned

    model = nn.Linear(1, 1)
    trainer, state = Trainer(Answers()), model.state_dict()
    with pytest.raises(TaskError, match=rf"the task's train\(\) returned {what}"):
        trainer.train(state, PLAN)
    with pytest.raises(TaskError, match=rf"the task's evaluate\(\) returned {what}"):
        trainer.evaluate(state)
    with pytest.raises(TaskError, match=r"the task's evaluate\(\) returned"):
        CentralEvaluation(Answers(), model, ModelTensors.of(model))


@pytest.mark.parametrize(
    ("made", "what"),
    [
        (None, "returned None; expected a torch.nn.Module"),
        (torch.relu, "returned an object of type builtin_function_or_method; expected"),
        (nn.Linear(1, 1, device="meta"), "'weight' has no values, for it is on the meta device"),
    ],
)
def test_what_model_returns_and_is_no_model_is_told_at_worker_and_aggregator(
    made: Any, what: str, tmp_path: Path
) -> None:
    class Makes:
        def model(self) -> Any:
            return made

        def train(self, model: nn.Module, plan: Plan) -> Any: ...

        def evaluate(self, model: nn.Module) -> Any: ...

    with pytest.raises(TaskError, match=what):
        Trainer(Makes())
    with pytest.raises(TaskError, match=what):
        SmallFederation(tmp_path, lambda _: Makes()).run()


@pytest.mark.parametrize(
    ("name", "told"), [("", "metric '' has"), ("x" * 5000, "metric 'x{60}…' has"), ("two words", "'two words' has")]
)
def test_a_name_that_cannot_travel_is_told_in_a_short_line(name: str, told: str) -> None:
    class Names:
        def model(self) -> nn.Module:
            return nn.Linear(1, 1)

        def train(self, model: nn.Module, plan: Plan) -> Any:
            return {"num_samples": 1, name: 0.5}

        def evaluate(self, model: nn.Module) -> Any: ...

    with pytest.raises(TaskError, match=told):
        Trainer(Names()).train(nn.Linear(1, 1).state_dict(), PLAN)


@pytest.mark.parametrize(
    ("number", "gave"), [(0, "0; .*has_samples\\(\\)"), (-1, "-1"), (1.5, "1.5"), (float("nan"), "no finite number")]
)
def test_a_number_of_samples_that_cannot_count_is_told_as_it_was(number: float, gave: str) -> None:
    class Counts:
        def model(self) -> nn.Module:
            return nn.Linear(1, 1)

        def train(self, model: nn.Module, plan: Plan) -> Any:
            return {"num_samples": number}

        def evaluate(self, model: nn.Module) -> Any: ...

    with pytest.raises(TaskError, match=f"must return num_samples, .* it gave {gave}$"):
        Trainer(Counts()).train(nn.Linear(1, 1).state_dict(), PLAN)
