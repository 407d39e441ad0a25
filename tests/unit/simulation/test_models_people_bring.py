"""Models as people have them, from the first round to the last, with the value that comes out."""

import logging
import sqlite3
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_model, save_file
from torch import nn
from unit.broker.test_model_tensors import Extra, Tied
from unit.simulation.small_federation import Given, SmallFederation

from aggregator.history import History
from console.errors import SettingsError, StateError, TaskError


def test_tied_weights_are_averaged_and_travel_once(tmp_path: Path) -> None:
    """Site a adds 1, site b adds 3: the mean moves by 2 a round, under both names."""
    seen: list[tuple[float, float]] = []

    def train(model: nn.Module, site: str) -> None:
        assert isinstance(model, Tied)
        seen.append((model.wte.weight[0, 0].item(), model.lm_head.weight[0, 0].item()))
        model.lm_head.weight += 1 if site == "a" else 3

    def make() -> nn.Module:
        model = Tied()
        nn.init.zeros_(model.wte.weight)
        return model

    run = SmallFederation(tmp_path, lambda site: Given(site, make, train)).run()

    assert seen == [(0, 0), (0, 0), (2, 2), (2, 2)]
    assert {spec.name for spec in run.head.tensors} == {"wte.weight", "body.weight", "body.bias"}
    assert run.model(2)["wte.weight"].unique().tolist() == [4]
    for loaded in (History(tmp_path).load_model(Tied()), _loaded(tmp_path)):
        assert isinstance(loaded, Tied)
        assert loaded.lm_head.weight.unique().tolist() == [4]


def _loaded(folder: Path) -> nn.Module:
    """As the library of the format loads it."""
    model = Tied()
    load_model(model, folder / "models" / "last.safetensors")
    return model


def test_a_run_that_would_share_one_of_two_tied_names_does_not_begin(tmp_path: Path) -> None:
    run = SmallFederation(tmp_path, lambda site: Given(site, Tied), shared="!lm_head.*")
    with pytest.raises(SettingsError, match=r"--shared: 'wte.weight' and 'lm_head.weight' are one tensor"):
        run.run()


def test_tied_weights_that_stay_home_are_each_site_s_own(tmp_path: Path) -> None:
    seen: dict[str, float] = {}

    def train(model: nn.Module, site: str) -> None:
        assert isinstance(model, Tied)
        model.wte.weight += 1 if site == "a" else 3
        seen[site] = (model.lm_head.weight - start).mean().item()

    torch.manual_seed(0)
    start = Tied().wte.weight.detach()
    SmallFederation(tmp_path, lambda site: Given(site, Tied, train), shared="body.*").run()
    assert seen == pytest.approx({"a": 2, "b": 6})


def test_a_run_of_0_1_0_that_sent_a_tied_tensor_twice_is_refused_with_both_names(tmp_path: Path) -> None:
    run = SmallFederation(tmp_path, lambda site: Given(site, Tied)).run()
    path = tmp_path / "models" / "round-00002.safetensors"
    save_file(run.model(2) | {"lm_head.weight": run.model(2)["wte.weight"].clone()}, path)
    again = SmallFederation(tmp_path, run.task, rounds=3)
    with pytest.raises(StateError, match=r"has 'wte.weight' and 'lm_head.weight' apart, though they are one tensor"):
        again.run()


def test_extra_state_stays_at_its_site_and_the_rest_is_averaged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    words: dict[str, Any] = {}

    def train(model: nn.Module, site: str) -> None:
        assert isinstance(model, Extra)
        model.word += site
        words[site] = model.word
        model.bias += 1 if site == "a" else 3

    def make() -> nn.Module:
        model = Extra()
        nn.init.zeros_(model.bias)
        return model

    with caplog.at_level(logging.WARNING):
        run = SmallFederation(tmp_path, lambda site: Given(site, make, train)).run()
    assert words == {"a": "mineaa", "b": "minebb"}
    assert run.model(2)["bias"].tolist() == [4]
    assert "'_extra_state' (is not a tensor but of type dict)" in caplog.text


class Norm(nn.BatchNorm1d):
    """Training adds 1 to the weight, and takes 0.9 off the variance."""

    def __init__(self) -> None:
        super().__init__(2)


def drifts(model: nn.Module, site: str) -> None:
    assert isinstance(model, Norm)
    assert model.running_var is not None
    assert model.num_batches_tracked is not None
    model.weight += 1
    model.running_var -= 0.9 if site == "a" else 0.5
    model.num_batches_tracked += 3


@pytest.mark.parametrize("server_lr", [1.0, 2.0, 0.5])
def test_statistics_move_by_the_mean_whatever_the_server_s_factor(tmp_path: Path, server_lr: float) -> None:
    run = SmallFederation(tmp_path, lambda site: Given(site, Norm, drifts), rounds=1, server_lr=server_lr).run()
    assert run.model(1)["weight"].tolist() == [1 + server_lr] * 2
    assert run.model(1)["running_var"].tolist() == pytest.approx([0.3] * 2)
    assert run.model(1)["num_batches_tracked"].item() == 3


def test_which_tensors_are_stepped_is_decided_when_the_run_begins(tmp_path: Path) -> None:
    """A task that freezes a parameter in the middle of a run, and a ledger of 0.1.0, which does not say."""

    def frozen() -> nn.Module:
        return Norm().requires_grad_(False)

    SmallFederation(tmp_path, lambda site: Given(site, Norm, drifts), rounds=1, server_lr=2).run()
    again = SmallFederation(tmp_path, lambda site: Given(site, frozen, drifts), rounds=2, server_lr=2).run()
    assert again.model(2)["weight"].tolist() == [5, 5]

    with sqlite3.connect(tmp_path / "ledger.sqlite") as ledger:
        assert ledger.execute("SELECT value FROM run WHERE key = 'stepped'").fetchall() == [('["bias", "weight"]',)]
        ledger.execute("DELETE FROM run WHERE key = 'stepped'")
    ledger.close()
    last = SmallFederation(tmp_path, lambda site: Given(site, Norm, drifts), rounds=3, server_lr=2).run()
    assert last.model(3)["weight"].tolist() == [7, 7]
    assert last.model(3)["running_var"].tolist() == pytest.approx([1 - 3 * 0.7] * 2)


INFINITY, NAN = float("inf"), float("nan")


class Masked(nn.Module):
    """Attention's mask, an observer that has seen nothing yet, and a weight."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.zeros(2))
        self.register_buffer("mask", torch.full((3, 3), -INFINITY).triu(1))
        self.register_buffer("unset", torch.tensor([NAN, INFINITY, 0.5]))


def moves(model: nn.Module, site: str) -> None:
    assert isinstance(model, Masked)
    model.w += 1 if site == "a" else 3


@pytest.mark.parametrize("settings", [{}, {"compression": "int8"}, {"server_lr": 2}, {"shared": "!mask"}])
def test_infinity_that_does_not_change_passes(tmp_path: Path, settings: dict[str, Any]) -> None:
    run = SmallFederation(tmp_path, lambda site: Given(site, Masked, moves), **settings).run()
    assert run.model(2)["w"].tolist() == [4 * settings.get("server_lr", 1)] * 2
    assert torch.equal(run.model(2)["unset"].nan_to_num(nan=7), torch.tensor([7, torch.finfo().max, 0.5]))
    if "shared" not in settings:
        assert torch.equal(run.model(2)["mask"], Masked().mask)


def test_what_stays_home_may_become_anything(tmp_path: Path) -> None:
    """As an observer of extremes does, which begins at infinity."""

    def observes(model: nn.Module, site: str) -> None:
        assert isinstance(model, Masked)
        moves(model, site)
        model.unset.copy_(torch.tensor([0.25, INFINITY, NAN]))

    run = SmallFederation(tmp_path, lambda site: Given(site, Masked, observes), shared="!unset").run()
    assert run.model(2)["w"].tolist() == [4, 4]


def test_a_model_that_begins_with_nan_in_what_is_trained_is_refused_with_the_way_out(tmp_path: Path) -> None:
    def make() -> nn.Module:
        model = Masked()
        nn.init.constant_(model.w, NAN)
        return model

    with pytest.raises(TaskError, match=r"NaN or infinity in 'w', which is trained; mend model\(\), .*--shared '!w'"):
        SmallFederation(tmp_path, lambda site: Given(site, make)).run()
