"""Supervised training and evaluation at one site."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, mse_loss
from torch.utils.data import Dataset, TensorDataset

from console.errors import TaskError
from learning import Plan, Site, Split, Supervised, Task

PLAN = Plan(round=1, seed=3, epochs=2, batch_size=8, lr=0.1, momentum=0.9)
SITE = Site(name="w0")


def points(num_samples: int = 50) -> tuple[Tensor, Tensor]:
    random = torch.Generator().manual_seed(0)
    inputs = torch.randn(num_samples, 4, generator=random)
    return inputs, (inputs.sum(dim=1) > 0).long()


def network(*layers: nn.Module) -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(4, 8), *layers, nn.ReLU(), nn.Linear(8, 2))


def task(split: Split, model: Callable[[], nn.Module] = network) -> Task:
    return Supervised(model=model, data=lambda site: split, loss=cross_entropy)(SITE)


def flat(model: nn.Module) -> Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


def test_training_lowers_the_loss_and_counts_the_samples() -> None:
    here = task(Split(train=points(), test=points()))
    model = here.model()
    before = here.evaluate(model)
    metrics = here.train(model, replace(PLAN, epochs=20))
    after = here.evaluate(model)

    assert metrics["num_samples"] == 50
    assert after["loss"] < before["loss"]
    assert after["accuracy"] > 0.9


def test_the_same_state_and_plan_give_the_same_bits() -> None:
    trained = []
    for _ in range(2):
        here = task(Split(train=points()))
        model = here.model()
        here.train(model, replace(PLAN, mu=0.1))
        trained.append(flat(model))

    assert torch.equal(*trained)


def test_another_seed_shuffles_otherwise() -> None:
    here = task(Split(train=points()))
    one, other = here.model(), here.model()
    here.train(one, PLAN)
    here.train(other, replace(PLAN, seed=4))

    assert not torch.equal(flat(one), flat(other))


def test_all_data_as_one_batch_is_a_step_of_gradient_descent() -> None:
    here = task(Split(train=points()))
    model, expected = here.model(), here.model()
    inputs, targets = points()
    gradients = torch.autograd.grad(cross_entropy(expected(inputs), targets), list(expected.parameters()))
    with torch.no_grad():
        for parameter, gradient in zip(expected.parameters(), gradients, strict=True):
            parameter.sub_(0.1 * gradient)

    here.train(model, Plan(round=1, seed=3, batch_size=0, lr=0.1))

    torch.testing.assert_close(flat(model), flat(expected))


def test_the_proximal_term_keeps_the_model_near_the_received_one() -> None:
    here = task(Split(train=points()))
    received = flat(here.model())
    distances = []
    for mu in (0.0, 0.1, 1.0):
        model = here.model()
        here.train(model, replace(PLAN, mu=mu, momentum=0.0, epochs=5))
        distances.append((flat(model) - received).norm().item())

    assert distances[0] > distances[1] > distances[2] > 0


def test_a_cancelled_training_stops_before_the_next_batch() -> None:
    asked: list[None] = []

    def at_the_third_batch() -> bool:
        asked.append(None)
        return len(asked) == 3

    done: list[float] = []
    here = task(Split(train=points()))
    here.train(here.model(), replace(PLAN, cancelled=at_the_third_batch, progress=done.append))

    assert (len(asked), len(done)) == (3, 2)


def test_a_training_cancelled_at_once_changes_nothing() -> None:
    here = task(Split(train=points()))
    model = here.model()

    assert here.train(model, replace(PLAN, cancelled=lambda: True)) == {"num_samples": 50}
    assert torch.equal(flat(model), flat(here.model()))


def test_progress_rises_to_one() -> None:
    done: list[float] = []
    here = task(Split(train=points()))
    here.train(here.model(), replace(PLAN, progress=done.append))

    assert done == sorted(done)
    assert (len(done), done[-1]) == (14, 1.0)


def test_a_limit_of_steps_ends_the_training_and_its_progress() -> None:
    done: list[float] = []
    here = task(Split(train=points()))
    here.train(here.model(), replace(PLAN, max_steps=4, progress=done.append))

    assert done == [0.25, 0.5, 0.75, 1.0]


@pytest.mark.parametrize("num_samples", [1, 9])
@pytest.mark.parametrize("layers", [[], [nn.BatchNorm1d(8)]])
def test_a_batch_of_one_sample_is_trained_on_with_and_without_batch_norm(
    num_samples: int, layers: list[nn.Module]
) -> None:
    here = task(Split(train=points(num_samples)), model=lambda: network(*layers))
    model = here.model()
    received = flat(model)

    assert here.train(model, PLAN)["num_samples"] == num_samples
    assert not torch.equal(flat(model), received)


def test_a_single_sample_leaves_the_statistics_of_batch_norm_as_received() -> None:
    here = task(Split(train=points(1)), model=lambda: network(nn.BatchNorm1d(8)))
    model = here.model()
    received = {name: buffer.clone() for name, buffer in model.named_buffers()}
    here.train(model, PLAN)

    assert all(torch.equal(buffer, received[name]) for name, buffer in model.named_buffers())


@pytest.mark.parametrize("nothing", [None, points(0)])
def test_a_site_without_training_samples_says_so(nothing: tuple[Tensor, Tensor] | None) -> None:
    here = task(Split(train=nothing))

    with pytest.raises(TaskError, match="site 'w0' has no training samples"):
        here.train(here.model(), PLAN)


@pytest.mark.parametrize("nothing", [None, points(0)])
def test_a_site_without_test_samples_has_nothing_to_say(nothing: tuple[Tensor, Tensor] | None) -> None:
    here = task(Split(test=nothing))

    assert here.evaluate(here.model()) == {}


def test_inputs_and_targets_must_be_equally_many() -> None:
    inputs, targets = points()
    here = task(Split(train=(inputs, targets[:-1])))

    with pytest.raises(TaskError, match="50 inputs but 49 targets"):
        here.train(here.model(), PLAN)


class Pairs(Dataset[tuple[Tensor, int]]):
    """A map-style data set whose targets are plain numbers."""

    def __len__(self) -> int:
        return 50

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        inputs, targets = points()
        return inputs[index], int(targets[index])


@pytest.mark.parametrize("samples", [TensorDataset(*points()), Pairs()])
def test_tensors_and_data_sets_of_the_same_samples_train_to_the_same_bits(samples: Dataset[object]) -> None:
    trained = []
    for kind in (points(), samples):
        here = task(Split(train=kind, test=kind))
        model = here.model()
        here.train(model, PLAN)
        trained.append((flat(model), here.evaluate(model)))

    assert torch.equal(trained[0][0], trained[1][0])
    assert trained[0][1] == trained[1][1]


def test_evaluation_gives_plain_floats_and_leaves_every_mode_as_it_was() -> None:
    here = task(Split(test=points()), model=lambda: network(nn.Dropout()))
    model = here.model()
    model[0].eval()  # type: ignore[index]
    metrics = here.evaluate(model)

    assert metrics == here.evaluate(model)
    assert {type(value) for value in metrics.values()} == {float}
    assert [module.training for module in model.children()] == [False, True, True, True]


def test_loss_and_accuracy_are_means_over_samples_whatever_the_batches() -> None:
    inputs, targets = points(1300)
    here = task(Split(test=(inputs, targets)))
    model = here.model()
    scores = model(inputs)

    assert here.evaluate(model) == {
        "num_samples": 1300,
        "loss": pytest.approx(cross_entropy(scores, targets).item(), rel=1e-5),
        "accuracy": pytest.approx((scores.argmax(1) == targets).double().mean().item()),
    }


def test_regression_has_no_accuracy() -> None:
    inputs, _ = points()
    problem = Supervised(
        model=lambda: nn.Linear(4, 1), data=lambda site: Split(test=(inputs, inputs[:, :1])), loss=mse_loss
    )
    here = problem(SITE)

    assert here.evaluate(here.model()).keys() == {"num_samples", "loss"}


def test_data_are_loaded_at_first_use_and_once() -> None:
    loaded: list[Site] = []

    def data(site: Site) -> Split:
        loaded.append(site)
        return Split(train=points(), test=points())

    here = Supervised(model=network, data=data, loss=cross_entropy)(SITE)
    model = here.model()
    assert loaded == []

    here.train(model, PLAN)
    here.evaluate(model)
    assert loaded == [SITE]


def test_frozen_parameters_stay_as_received() -> None:
    here = task(Split(train=points()))
    model = here.model()
    first = next(model.parameters())
    first.requires_grad_(False)
    received = first.clone()
    here.train(model, replace(PLAN, mu=0.1))

    assert torch.equal(first, received)


def test_the_optimizer_can_be_replaced() -> None:
    problem = Supervised(
        model=network,
        data=lambda site: Split(train=points(), test=points()),
        loss=cross_entropy,
        optimizer=lambda parameters, plan: torch.optim.Adam(parameters, lr=plan.lr),
    )
    here = problem(SITE)
    model = here.model()
    here.train(model, PLAN)

    assert here.evaluate(model)["accuracy"] > 0.9
