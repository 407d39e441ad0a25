"""The files of a state directory."""

import json
from pathlib import Path

import pytest
import torch
from torch import nn
from unit.aggregator.embedded_run import payload_of

from aggregator.rounds.exact_sum import ExactSum
from aggregator.state.checkpoint import StateDirectory
from broker.states.tensors import State, digest_of, specs_of
from console.errors import DamagedFile, StateError

STATE: State = {
    "w": torch.tensor([[1.0, 2.0]]),
    "half": torch.tensor([1.5], dtype=torch.float16),
    "brain": torch.tensor(2.5, dtype=torch.bfloat16),
    "mask": torch.tensor([True, False]),
    "steps": torch.tensor(3),
    "empty": torch.zeros(0, 2),
}
SPECS = specs_of(STATE)
FLOATS = {name: tensor for name, tensor in STATE.items() if tensor.dtype is not torch.bool}


@pytest.fixture
def directory(tmp_path: Path) -> StateDirectory:
    return StateDirectory(tmp_path / "state")


def saved(directory: StateDirectory, round_number: int, state: State) -> str:
    """Writes a model and puts it in its place; returns its digest."""
    written = directory.write_model(round_number, state)
    written.install()
    return written.sha256


def a_sum() -> ExactSum:
    exact_sum = ExactSum(specs_of(FLOATS))
    exact_sum.add(0, payload_of(FLOATS), 3.0)
    exact_sum.end_update()
    return exact_sum


def test_a_model_comes_back_as_it_was_saved(directory: StateDirectory) -> None:
    sha256 = saved(directory, 1, STATE)
    assert sha256 == digest_of(STATE)
    model = directory.model(1)
    model.check(SPECS, sha256)
    assert model.specs() == SPECS
    assert b"".join(model.pieces(SPECS)) == payload_of(STATE)
    for span, start, values in model.values(SPECS, [(spec,) for spec in SPECS]):
        assert start == 0
        assert values.dtype == STATE[span[0].name].dtype
        assert torch.equal(values, STATE[span[0].name].reshape(-1))


def test_values_of_neighbours_come_as_one_tensor(directory: StateDirectory) -> None:
    state = {name: torch.arange(4.0) + index for index, name in enumerate("abc")}
    saved(directory, 1, state)
    specs = specs_of(state)
    (first, _, pair), (last, _, single) = directory.model(1).values(specs, [specs[:2], specs[2:]])
    assert (first, last) == (specs[:2], specs[2:])
    assert pair.tolist() == [0, 1, 2, 3, 1, 2, 3, 4]
    assert single.tolist() == [2, 3, 4, 5]


def test_values_of_a_large_tensor_come_in_pieces(directory: StateDirectory) -> None:
    state = {"w": torch.arange(600_000.0)}
    saved(directory, 1, state)
    specs = specs_of(state)
    pieces = list(directory.model(1).values(specs, [specs]))
    assert [(start, len(values)) for _, start, values in pieces] == [(0, 2**18), (2**18, 2**18), (2**19, 75_712)]
    assert torch.equal(torch.cat([values for *_, values in pieces]), state["w"])


@pytest.mark.parametrize("keep", [0, 4, 50, -3])
def test_a_model_that_is_cut_while_it_is_in_use_is_damaged(directory: StateDirectory, keep: int) -> None:
    saved(directory, 0, STATE)
    path = directory.model_path(0)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(DamagedFile, match=r"round-00000.* cannot be read"):
        list(directory.model(0).pieces(SPECS))


def test_a_model_with_other_tensors_is_not_read_as_this_one(directory: StateDirectory) -> None:
    saved(directory, 0, STATE | {"w": torch.zeros(2, 1)})
    with pytest.raises(DamagedFile, match="does not hold these tensors"):
        list(directory.model(0).pieces(SPECS))


def test_a_model_that_is_still_the_best_is_linked_again_and_nothing_is_left(directory: StateDirectory) -> None:
    saved(directory, 1, STATE)
    for _ in range(2):
        directory.link("best", 1)
    assert sorted(path.name for path in (directory.folder / "models").iterdir()) == [
        "best.safetensors",
        "round-00001.safetensors",
    ]


def test_a_model_whose_tensors_share_memory_is_saved(directory: StateDirectory) -> None:
    """Tied weights: the embedding of a language model is its last layer too."""
    model = nn.ModuleDict({"embedding": nn.Embedding(4, 3), "out": nn.Linear(3, 4, bias=False)})
    model["out"].weight = model["embedding"].weight
    state = model.state_dict()
    assert saved(directory, 0, state) == digest_of(state)
    directory.model(0).check(specs_of(state), digest_of(state))


def test_a_model_whose_tensors_are_not_contiguous_is_saved(directory: StateDirectory) -> None:
    state = nn.Conv2d(3, 4, 2).to(memory_format=torch.channels_last).state_dict()  # type: ignore[call-overload]
    assert saved(directory, 0, state) == digest_of(state)
    directory.model(0).check(specs_of(state), digest_of(state))


def test_a_model_that_is_another_task_s_is_refused(directory: StateDirectory) -> None:
    sha256 = saved(directory, 0, STATE)
    other = specs_of(STATE | {"w": torch.zeros(3)})
    with pytest.raises(StateError, match=r"has tensor 'w' of shape \[1, 2\], not \[3\]"):
        directory.model(0).check(other, sha256)


def test_a_changed_model_is_damaged(directory: StateDirectory) -> None:
    sha256 = saved(directory, 0, STATE)
    path = directory.model_path(0)
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(DamagedFile, match="damaged"):
        directory.model(0).check(SPECS, sha256)


@pytest.mark.parametrize("keep", [0, 4, 50, -3])
def test_a_cut_model_cannot_be_read(directory: StateDirectory, keep: int) -> None:
    sha256 = saved(directory, 0, STATE)
    path = directory.model_path(0)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(DamagedFile, match="cannot be read"):
        directory.model(0).check(SPECS, sha256)


def test_a_missing_model_is_told(directory: StateDirectory) -> None:
    with pytest.raises(DamagedFile, match="round-00007"):
        directory.model(7).check(SPECS, "")


def test_a_written_model_is_in_its_place_only_when_it_was_installed(directory: StateDirectory) -> None:
    first = saved(directory, 1, STATE)
    written = directory.write_model(1, STATE | {"w": torch.zeros(1, 2)})
    directory.model(1).check(SPECS, first)
    written.install()
    directory.model(1).check(SPECS, written.sha256)
    assert not list(directory.folder.rglob("*.tmp"))


def test_two_that_write_the_same_round_do_not_write_into_one_file(directory: StateDirectory) -> None:
    """An aggregator that was frozen in mid-write may wake up when another one has led on."""
    frozen = directory.new_model(1, SPECS)
    sha256 = saved(directory, 1, STATE)
    frozen.write(bytes(8))
    frozen.finish()
    directory.model(1).check(SPECS, sha256)


def test_what_was_never_installed_is_cleared_away(directory: StateDirectory) -> None:
    saved(directory, 1, STATE)
    directory.write_model(2, STATE)
    directory.remove_unfinished()
    assert [path.name for path in (directory.folder / "models").iterdir()] == ["round-00001.safetensors"]


def test_a_sum_comes_back_bit_for_bit(directory: StateDirectory) -> None:
    kept = a_sum()
    sha256 = directory.save_sum("sum-1.safetensors", kept.limbs())
    loaded = ExactSum(kept.specs)
    directory.load_sum("sum-1.safetensors", sha256, loaded.limbs())
    assert {name: limb.tolist() for name, limb in loaded.limbs().items()} == {
        name: limb.tolist() for name, limb in kept.limbs().items()
    }


def test_a_loaded_sum_is_not_a_view_of_its_file(directory: StateDirectory) -> None:
    kept = a_sum()
    sha256 = directory.save_sum("sum-1.safetensors", kept.limbs())
    loaded = ExactSum(kept.specs)
    directory.load_sum("sum-1.safetensors", sha256, loaded.limbs())
    loaded.add(0, payload_of(FLOATS), 1.0)
    directory.load_sum("sum-1.safetensors", sha256, ExactSum(kept.specs).limbs())


def test_a_damaged_cut_or_missing_sum_is_refused(directory: StateDirectory) -> None:
    kept = a_sum()
    sha256 = directory.save_sum("sum-1.safetensors", kept.limbs())
    path = directory.folder / "sum-1.safetensors"
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(DamagedFile, match="damaged"):
        directory.load_sum("sum-1.safetensors", sha256, ExactSum(kept.specs).limbs())
    path.write_bytes(content[:-8])
    with pytest.raises(DamagedFile, match="cannot be read"):
        directory.load_sum("sum-1.safetensors", sha256, ExactSum(kept.specs).limbs())
    path.unlink()
    with pytest.raises(DamagedFile, match="cannot be read"):
        directory.load_sum("sum-1.safetensors", sha256, ExactSum(kept.specs).limbs())


def test_a_directory_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StateError, match="cannot write to the state directory"):
        StateDirectory(tmp_path / "file" / "state")


def test_a_model_that_cannot_be_put_in_its_place_is_told(directory: StateDirectory) -> None:
    directory.model_path(1).mkdir()
    with pytest.raises(StateError, match="cannot write"):
        saved(directory, 1, STATE)


def test_only_the_rounds_asked_for_are_kept_and_links_hold_their_models(directory: StateDirectory) -> None:
    for number in range(4):
        saved(directory, number, STATE | {"w": torch.full((1, 2), float(number))})
    directory.link("best", 1)
    directory.link("last", 2)
    directory.link("last", 3)
    directory.keep_only({0, 3})
    models = directory.folder / "models"
    assert sorted(path.name for path in models.glob("round-*")) == [
        "round-00000.safetensors",
        "round-00003.safetensors",
    ]
    assert (models / "last.safetensors").read_bytes() == directory.model_path(3).read_bytes()
    assert (models / "best.safetensors").exists()


def test_a_summary_is_json_in_place_of_an_earlier_one(directory: StateDirectory) -> None:
    for number in (1, 2):
        directory.write_summary({"final": {"round": number}})
    assert json.loads(directory.summary.read_text()) == {"final": {"round": 2}}
    assert not list(directory.folder.glob("*.tmp"))
