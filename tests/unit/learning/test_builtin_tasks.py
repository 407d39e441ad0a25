"""The built-in tasks and the examples, trained for real and briefly."""

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from learning import Plan, Site, Supervised, Task, load_task
from learning import breast_cancer as cancer
from learning import digits as digits_task
from learning.bundled import bundled

EXAMPLES = Path(__file__).parents[3] / "examples"
BUILT_IN = ["digits", "breast-cancer"]


def sites(reference: str, num_sites: int, partition: str = "dirichlet:0.5") -> list[Task]:
    return [
        load_task(reference, Site(name=f"w{index}", partition=partition, index=index, num_sites=num_sites))
        for index in range(num_sites)
    ]


def mean(states: list[dict[str, Tensor]], weights: list[float]) -> dict[str, Tensor]:
    return {
        name: sum((w * state[name] for w, state in zip(weights, states, strict=True)), torch.zeros(())) / sum(weights)
        for name in states[0]
    }


def federated(tasks: list[Task], model: nn.Module, *, rounds: int, epochs: int = 2) -> nn.Module:
    """FedAvg as in the paper, with the default settings of local training."""
    for number in range(rounds):
        states, weights = [], []
        for index, task in enumerate(tasks):
            copied = copy.deepcopy(model)
            plan = Plan(round=number, seed=100 * number + index, epochs=epochs, lr=0.05, momentum=0.9)
            weights.append(task.train(copied, plan)["num_samples"])
            states.append(copied.state_dict())
        model.load_state_dict(mean(states, weights))
    return model


@pytest.mark.parametrize(("reference", "accuracy"), [("digits", 0.9), ("breast-cancer", 0.93)])
def test_a_few_federated_rounds_beat_the_sites_on_their_own(reference: str, accuracy: float) -> None:
    tasks, aggregator = sites(reference, 4), load_task(reference, Site())
    torch.manual_seed(0)
    initial = aggregator.model()
    together = federated(tasks, copy.deepcopy(initial), rounds=8)
    alone = [federated([task], copy.deepcopy(initial), rounds=1, epochs=16) for task in tasks]

    reached = aggregator.evaluate(together)["accuracy"]
    assert reached >= accuracy
    assert reached > np.mean([aggregator.evaluate(model)["accuracy"] for model in alone])


@pytest.mark.parametrize(("problem", "size"), [(digits_task.task, 1797), (cancer.task, 569)])
def test_every_sample_lies_in_one_place(problem: Supervised, size: int) -> None:
    def rows(samples: object) -> list[bytes]:
        assert isinstance(samples, tuple)
        return [row.numpy().tobytes() for row in samples[0]]

    places = rows(problem(Site()).split.test)
    for index in range(8):
        split = problem(Site(name="w", partition="dirichlet:0.5", index=index, num_sites=8)).split
        places += rows(split.train) + rows(split.test)

    assert len(places) == size
    assert len(set(places)) == size


@pytest.mark.parametrize("reference", BUILT_IN)
def test_the_aggregator_has_a_central_test_set_that_no_seed_changes(reference: str) -> None:
    one, other = load_task(reference, Site()), load_task(reference, Site(seed=7, partition="shards:2"))
    model = one.model()

    assert one.evaluate(model) == other.evaluate(model)


@pytest.mark.parametrize("reference", BUILT_IN)
def test_a_site_known_by_its_name_can_train_and_evaluate(reference: str) -> None:
    task = load_task(reference, Site(name="hospital-3", partition="shards:2"))
    model = task.model()

    assert task.train(model, Plan(round=1, seed=0, lr=0.05))["num_samples"] > 20
    assert task.evaluate(model)["num_samples"] > 5


def test_the_digits_network_has_the_stated_number_of_parameters() -> None:
    assert sum(parameter.numel() for parameter in digits_task.cnn().parameters()) == 9_930


def test_the_cancer_network_has_the_stated_number_of_parameters() -> None:
    assert sum(parameter.numel() for parameter in cancer.network().parameters()) == 530


def test_the_published_ranges_are_those_of_the_data() -> None:
    measures, _ = bundled("breast_cancer")

    np.testing.assert_allclose(np.ravel(cancer.LOWEST), measures.min(axis=0), rtol=0.2, atol=1e-3)
    np.testing.assert_allclose(np.ravel(cancer.HIGHEST), measures.max(axis=0), rtol=0.01)


@pytest.mark.parametrize("partition", ["iid", "dirichlet:0.5", "shards:2"])
def test_the_textbook_example_learns_from_unlike_sites(partition: str) -> None:
    reference = f"{EXAMPLES / 'textbook.py'}:task"
    aggregator = load_task(reference, Site())
    torch.manual_seed(0)
    model = federated(sites(reference, 5, partition), aggregator.model(), rounds=5)

    assert aggregator.evaluate(model)["accuracy"] > 0.6


def test_the_example_of_an_own_task_learns_and_imports_nothing_of_ours() -> None:
    reference = f"{EXAMPLES / 'own_task.py'}:Spirals"
    aggregator = load_task(reference, Site())
    torch.manual_seed(0)
    model = federated(sites(reference, 5), aggregator.model(), rounds=20)

    assert aggregator.evaluate(model)["accuracy"] > 0.9
    assert not any(name in (EXAMPLES / "own_task.py").read_text() for name in ("import learning", "from learning"))
