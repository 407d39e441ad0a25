"""What is written piece by piece, the safetensors library reads."""

from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from aggregator.state.safetensors_file import SafetensorsFile
from broker.states.tensors import DTYPES, State, chunks, digest_of, specs_of

STATE: State = {
    "weight": torch.arange(6, dtype=torch.float32).reshape(2, 3),
    "scalar": torch.tensor(3.5, dtype=torch.float64),
    "empty": torch.zeros(0, 4),
    'name "with" quotes and ö': torch.tensor([True, False]),
    "half": torch.tensor([1.5, -2.0], dtype=torch.bfloat16),
    "transposed": torch.arange(6, dtype=torch.int16).reshape(2, 3).T,
}


def write(path: Path, state: State) -> str:
    specs = specs_of(state)
    written = SafetensorsFile(path, specs, round_number=7)
    with written.file:
        for piece in chunks(state, specs):
            written.write(piece)
        return written.finish()


def test_the_library_reads_the_same_tensors(tmp_path: Path) -> None:
    write(tmp_path / "model.safetensors", STATE)
    read = load_file(tmp_path / "model.safetensors")
    assert read.keys() == STATE.keys()
    assert all(torch.equal(read[name], tensor) and read[name].dtype == tensor.dtype for name, tensor in STATE.items())


@pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)
def test_every_dtype_that_travels_is_known(dtype: torch.dtype, tmp_path: Path) -> None:
    state = {"one": torch.ones(3).to(dtype)}
    write(tmp_path / "model.safetensors", state)
    assert torch.equal(load_file(tmp_path / "model.safetensors")["one"], state["one"])


def test_its_metadata_tell_round_and_digest(tmp_path: Path) -> None:
    sha256 = write(tmp_path / "model.safetensors", STATE)
    with safe_open(tmp_path / "model.safetensors", framework="pt") as file:
        assert file.metadata() == {"model_sha256": sha256, "round": "7"}
    assert sha256 == digest_of(STATE)


def test_a_model_without_tensors_is_a_file_too(tmp_path: Path) -> None:
    write(tmp_path / "model.safetensors", {})
    assert load_file(tmp_path / "model.safetensors") == {}
