"""A worker of a run that adds noise: its update is clipped; where it is to, it adds noise itself, within a budget."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from unit.worker.test_masking_worker import KEEPERS, NOISED, RING32, RING64, SITE, STATE, Site, trained

from broker.states import MaskedEncoding, State, specs_of
from broker.states.tensors import state_from
from broker.transport import Source
from broker.wire import EXTRA_STEP, EXTRAS
from console import SettingsError, StateError
from privacy import mu_of, noise_for
from worker.masking.clipping import clipped
from worker.masking.extras import extras_of
from worker.masking.noise import add_noise
from worker.masking.summand import summand_of, totals_of
from worker.state import OwnNoise

RING = RING64.model_copy(update={"metrics": ()})
CENTRAL = NOISED.model_copy(update={"where": "central"})
LOCAL = NOISED.model_copy(update={"where": "local", "noise": noise_for(8.0, 1e-5, rounds=2) + 1e-6, "clip": 0.01})
UNIFORM: dict[str, Any] = {"weighting": "uniform"}


def norm_of(tensors: dict[str, Any]) -> float:
    return math.sqrt(math.fsum(float((np.asarray(values, np.float64) ** 2).sum()) for values in tensors.values()))


def noise_of(folder: Path) -> OwnNoise:
    return OwnNoise(folder, SITE)


def delta_in(body: bytes, specs: Any) -> State:
    return state_from(bytearray(body), specs)


@pytest.mark.parametrize("clip", [1e-3, 0.1])
def test_a_masked_update_is_clipped_over_all_its_tensors_and_cut_towards_zero(clip: float) -> None:
    privacy = NOISED.model_copy(update={"clip": clip, "quantile": 0.5})
    sent = Site().answer(masking=RING, privacy=privacy, **UNIFORM)
    integers = sent.integers(KEEPERS[:1])
    assert (integers.pop(EXTRAS) * EXTRA_STEP).tolist() == [1, -0.5]
    delta = trained(1)
    length = norm_of(delta)
    assert length > clip
    for name, values in integers.items():
        wanted = delta[name].double().numpy() * (clip / length) / RING.step
        assert np.abs(values - wanted).max() < 1.001
        assert (np.abs(values) <= np.abs(wanted)).all()
    assert clip * (1 - 1e-6) < norm_of({name: values * RING.step for name, values in integers.items()}) <= clip


def test_an_update_within_the_clip_stays_as_it_is_and_says_so() -> None:
    privacy = NOISED.model_copy(update={"clip": 100.0, "quantile": 0.5})
    integers = Site().answer(masking=RING, privacy=privacy, **UNIFORM).integers(KEEPERS[:1])
    assert (integers[EXTRAS] * EXTRA_STEP).tolist() == [1, 0.5]
    assert integers["w"].tolist() == np.trunc(trained(1)["w"].double().numpy() / RING.step).tolist()


def test_a_seed_is_signed_with_the_clip_and_the_step_that_its_noise_is_made_for() -> None:
    sealed = Site().answer(masking=RING, privacy=NOISED, **UNIFORM).sealed()
    assert (sealed.clip, sealed.step) == (NOISED.clip, RING.step)


def test_with_32_bits_the_grid_s_rest_is_carried_and_what_was_clipped_is_gone() -> None:
    """The same delta each round, three times as long as the clip: what is sent comes to the clip a round, no more."""
    encoding = MaskedEncoding(specs_of(STATE), RING32.model_copy(update={"step": 2.0**-6, "metrics": ()}))
    delta = {"w": torch.full((2, 2), 3.0), "b": torch.zeros(1)}
    residual: State = {}
    total = torch.zeros(2, 2, dtype=torch.float64)
    for _ in range(50):
        totals = totals_of(delta, residual, encoding)
        scale = 2.0 / norm_of({name: total.values for name, total in totals.items()})
        summand = summand_of(totals, extras_of((), {}, weight=1), encoding, weight=scale, carried=scale)
        residual = summand.residual
        total += summand.integers["w"] * encoding.masking.step
    assert float(residual["w"].abs().max()) < encoding.masking.step
    assert total.flatten().tolist() == pytest.approx([50.0] * 4, abs=0.1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
def test_a_plain_update_is_clipped_in_its_own_dtype_and_never_longer(dtype: torch.dtype) -> None:
    random = torch.Generator().manual_seed(0)
    for length in (1e-3, 0.5, 1.0, 7.0, 100.0):
        delta = {"w": (length * torch.randn((30, 40), generator=random)).to(dtype), "b": torch.ones(3).to(dtype)}
        sent, is_within = clipped(delta, specs_of(delta), 1.0)
        lengths = norm_of({name: tensor.double().numpy() for name, tensor in sent.items()})
        given = norm_of({name: tensor.double().numpy() for name, tensor in delta.items()})
        assert is_within == (given <= 1.0)
        assert lengths <= 1.0 if given > 1.0 else lengths == given
        assert lengths > 0.98 * min(given, 1.0)
        assert sent["w"].dtype == dtype


def test_a_plain_update_of_a_run_with_noise_is_clipped_and_says_nothing_of_its_site() -> None:
    sent = Site().answer(masking=None, privacy=CENTRAL.model_copy(update={"clip": 0.01}), **UNIFORM)
    delta = delta_in(sent.body, sent.head.tensors)
    assert 0.0099 < norm_of({name: tensor.double().numpy() for name, tensor in delta.items()}) <= 0.01
    assert (sent.head.num_samples, sent.head.train_metrics, sent.head.eval_metrics) == (1, {}, {})


@pytest.mark.parametrize("is_masked", [True, False])
def test_a_worker_s_own_noise_is_as_large_as_the_head_says(is_masked: bool, tmp_path: Path) -> None:
    """The noise of 200 rounds of 5 elements: its mean square is within 20 % (four standard deviations: 18 %)."""
    privacy = LOCAL.model_copy(update={"epsilon": 1000.0, "noise": 4.0})
    squares = []
    site = Site(noise=noise_of(tmp_path))
    for number in range(1, 201):
        sent = site.answer(number, masking=RING if is_masked else None, privacy=privacy, **UNIFORM)
        if is_masked:
            integers = sent.integers(KEEPERS[:1])
            found = {name: integers[name] * RING.step for name in STATE}
        else:
            found = {name: tensor.double().numpy() for name, tensor in delta_in(sent.body, sent.head.tensors).items()}
        squares += [float(value) ** 2 for name in STATE for value in np.asarray(found[name]).flat]
    mean = math.fsum(squares) / len(squares)
    clip, sigma = privacy.clip, privacy.noise * privacy.clip
    assert mean == pytest.approx(sigma**2 + clip**2 / 5, rel=0.2)


def test_the_same_update_has_the_same_noise_and_is_charged_once_also_after_a_restart(tmp_path: Path) -> None:
    first = Site(noise=noise_of(tmp_path)).answer(masking=RING, privacy=LOCAL, **UNIFORM).integers(KEEPERS[:1])
    again = Site(noise=noise_of(tmp_path)).answer(masking=RING, privacy=LOCAL, **UNIFORM).integers(KEEPERS[:1])
    for name, values in first.items():
        assert values.tolist() == again[name].tolist()
    assert len(json.loads((tmp_path / SITE / "noise.json").read_text(encoding="utf-8"))["charges"]) == 1
    other = Site(noise=noise_of(tmp_path / "other")).answer(masking=RING, privacy=LOCAL, **UNIFORM)
    assert other.integers(KEEPERS[:1])["w"].tolist() != first["w"].tolist()


def test_other_updates_and_other_noise_have_draws_of_their_own() -> None:
    """With one key for two of them, their difference would be in clear."""
    asked: list[bytes] = []

    def keys(digest: bytes) -> bytes:
        asked.append(digest)
        return digest

    for value, sigma in ((1, 2000.0), (2, 2000.0), (1, 3000.0), (1, 2000.0)):
        add_noise({"b": torch.tensor([value])}, specs_of({"b": torch.tensor([value])}), sigma, keys)
    assert len(set(asked[:3])) == 3
    assert asked[3] == asked[0]


def test_a_worker_whose_own_budget_is_spent_answers_no_more_and_says_so(tmp_path: Path) -> None:
    """There is room for two updates, of whatever run; the second may be sent again."""
    site = Site(noise=noise_of(tmp_path))
    site.answer(1, masking=None, privacy=LOCAL, **UNIFORM)
    site.answer(2, masking=None, privacy=LOCAL, **UNIFORM)
    assert mu_of([LOCAL.noise] * 2) < mu_of([LOCAL.noise] * 3)
    said = site.objection(round_number=3, masking=None, privacy=LOCAL, **UNIFORM)
    assert said.startswith("this site's own privacy budget is spent: epsilon 8.00 at delta 1e-05")
    said = Site(noise=noise_of(tmp_path)).objection(run_id="next.1", masking=None, privacy=LOCAL, **UNIFORM)
    assert "2 releases" in said
    Site(noise=noise_of(tmp_path)).answer(2, masking=None, privacy=LOCAL, **UNIFORM)


def test_a_charge_is_on_the_disk_before_its_noise_exists(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Killed(BaseException):
        pass

    def killed(*args: Any) -> Any:
        raise Killed

    monkeypatch.setattr("worker.masking.noise.GaussianNoise", killed)
    with pytest.raises(Killed):
        Site(noise=noise_of(tmp_path)).publish(masking=None, privacy=LOCAL, **UNIFORM)
    assert len(json.loads((tmp_path / SITE / "noise.json").read_text(encoding="utf-8"))["charges"]) == 1


def test_a_worker_that_could_not_remember_its_noise_stops() -> None:
    with pytest.raises(SettingsError, match="keep account of it: give --state DIR"):
        Site().publish(masking=None, privacy=LOCAL, **UNIFORM)


def test_damaged_accounts_and_another_secret_are_refused(tmp_path: Path) -> None:
    Site(noise=noise_of(tmp_path)).answer(masking=None, privacy=LOCAL, **UNIFORM)
    (tmp_path / SITE / "noise.secret").unlink()
    with pytest.raises(StateError, match="is another than the one that"):
        Site(noise=noise_of(tmp_path)).publish(masking=None, privacy=LOCAL, **UNIFORM)
    (tmp_path / SITE / "noise.json").write_text("{", encoding="utf-8")
    with pytest.raises(StateError, match="nobody knows what this site has given away"):
        Site(noise=noise_of(tmp_path)).publish(masking=None, privacy=LOCAL, **UNIFORM)


@pytest.mark.parametrize(
    ("asked", "reason"),
    [
        ({"privacy": NOISED, "masking": RING64}, "also has means of metrics without noise"),
        ({"privacy": NOISED, "masking": RING, "weighting": "samples"}, "adds noise and also has --weighting samples"),
        ({"privacy": LOCAL, "masking": RING32.model_copy(update={"metrics": ()})}, "32 bits have no room"),
        ({"privacy": LOCAL.model_copy(update={"quantile": 0.5}), "masking": None}, "a clip that follows"),
        ({"privacy": LOCAL.model_copy(update={"clip": 1e-9}), "masking": None}, "noise that cannot be"),
    ],
    ids=["metrics", "weighting", "bits", "quantile", "sigma"],
)
def test_noise_that_cannot_be_is_not_answered(asked: dict[str, Any], reason: str, tmp_path: Path) -> None:
    site = Site(noise=noise_of(tmp_path))
    assert reason in site.objection(**(UNIFORM | asked)).replace("masks updates and", "adds noise and")
    assert not site.broker.queues[Source.UPDATES]
