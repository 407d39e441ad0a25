"""The compiled loops and the one in numpy give the same sums, to the bit."""

import functools
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

import hypothesis.extra.numpy as arrays
import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings
from numpy.typing import NDArray

from aggregator.cli import main
from aggregator.rounds import fold_kernel
from aggregator.rounds.exact_sum import ExactSum
from aggregator.rounds.fold_kernel import Kernel
from broker.wire.specs import TensorSpec
from console.errors import ExitCode, SettingsError, UnfitMessage

UPDATES = st.lists(
    st.tuples(
        arrays.arrays(np.float32, st.just(64), elements=st.floats(-100, 100, width=32)),
        st.integers(1, 1000),
    ),
    min_size=1,
    max_size=40,
)


ROOT = Path(__file__).parents[2]
KINDS = ("C", "numba")


@functools.cache
def of_c() -> Kernel:
    """Compiled here, as an installation does, whether there was a compiler then or not."""
    (extension,) = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["ext-modules"]
    assert "-ffp-contract=off" in extension["extra-compile-args"]
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder) / "exact_fold.test.so"
        sources = [ROOT / source for source in extension["sources"]]
        command = [
            "cc",
            *extension["extra-compile-args"],
            "-Wall",
            "-Werror",
            "-fPIC",
            "-shared",
            *sources,
            "-o",
            library,
        ]
        subprocess.run(command, check=True, timeout=60)
        kernel = fold_kernel.from_library(library)
    assert kernel is not None
    return kernel


def kernel_of(kind: str) -> Kernel | None:
    return {"C": of_c, "numba": fold_kernel.kernel, "numpy": lambda: None}[kind]()


def exact_sum(num_elements: int, *, kind: str) -> ExactSum:
    specs = (TensorSpec("w", "float32", (num_elements,)),)
    return ExactSum(specs, kernel=kernel_of(kind))


def folded(updates: list[tuple[NDArray[np.float32], int]], *, kind: str) -> list[bytes]:
    total = exact_sum(len(updates[0][0]), kind=kind)
    for values, weight in updates:
        total.add(0, values.tobytes()[:128], float(weight))
        total.add(128, values.tobytes()[128:], float(weight))
        total.end_update()
    return [limb.tobytes() for limb in total.limbs().values()] + [np.float64(total.bound).tobytes()]


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=300, deadline=None)
@given(updates=UPDATES)
def test_all_give_the_same_bits(kind: str, updates: list[tuple[NDArray[np.float32], int]]) -> None:
    assert folded(updates, kind=kind) == folded(updates, kind="numpy")


@pytest.mark.parametrize("kind", KINDS)
def test_all_give_the_same_bits_for_weights_that_are_no_integers_and_in_any_piece(kind: str) -> None:
    random = np.random.default_rng(3)
    values = (random.standard_normal(10_007) * 10.0 ** random.integers(-30, 2, 10_007)).astype(np.float32)
    sums = [exact_sum(10_007, kind=each) for each in (kind, "numpy")]
    for weight in (17.0, 0.1, 1 / 3, 1e-9, 2.0**20):
        for total in sums:
            cut = 8 * int(random.integers(1, 5000)) if total is sums[0] else 16_000
            total.add(0, values.tobytes()[:cut], weight)
            total.add(cut, values.tobytes()[cut:], weight)
            total.end_update()
    ours, theirs = (total.limbs() for total in sums)
    assert all(np.array_equal(ours[name], theirs[name]) for name in theirs)
    for weight in (17.0, 0.1, 1 / 3, 1e-9, 2.0**20):
        sums[0].remove(0, values.tobytes(), weight)
        sums[0].end_update()
    assert not any(limb.any() for limb in sums[0].limbs().values())


@pytest.mark.parametrize("kind", KINDS)
def test_all_round_what_lies_in_the_middle_alike(kind: str) -> None:
    steps = np.array([0.5, 1.5, 2.5, -0.5, -1.5, 0.25, 3.0, -0.0], np.float32)
    for grid in (2.0**-32, 2.0**-58):
        values = np.tile((steps * grid).astype(np.float32), 8)
        assert folded([(values, 1)], kind=kind) == folded([(values, 1)], kind="numpy")


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("kind", [*KINDS, "numpy"])
def test_none_adds_what_is_not_finite(bad: float, kind: str) -> None:
    total = exact_sum(64, kind=kind)
    values = np.ones(64, np.float32)
    values[63] = bad
    with pytest.raises(UnfitMessage, match="tensor 'w' holds NaN or infinity"):
        total.add(0, values.tobytes(), 1.0)
    assert not any(limb.any() for limb in total.limbs().values())


def test_a_sum_shorter_than_what_is_added_is_not_written_past() -> None:
    high, low, values = np.zeros(7, np.int64), np.zeros(8, np.int32), np.ones(8, np.float32)
    with pytest.raises(ValueError, match="8 values"):
        of_c().add(high, low, values, 1.0, 1.5 * 2.0**52, 2.0**26)


def test_what_is_no_library_of_this_machine_is_left_alone(tmp_path: Path) -> None:
    other = tmp_path / "exact_fold.other.so"
    other.write_bytes(b"\x7fELF of another machine")
    assert fold_kernel.from_library(other) is None
    assert fold_kernel.from_library(tmp_path / "missing.so") is None


def test_what_was_built_is_used_and_is_enough_for_those_who_ask(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fold_kernel, "built", of_c)
    assert fold_kernel.kernel_for(must_be_compiled=False) is of_c()
    assert fold_kernel.kernel_for(must_be_compiled=True) is of_c()
    monkeypatch.setattr(fold_kernel, "built", lambda: None)
    assert fold_kernel.kernel_for(must_be_compiled=False) is None
    assert fold_kernel.kernel_for(must_be_compiled=True) is fold_kernel.kernel()


def test_without_the_compiler_it_is_said_how_to_get_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(fold_kernel, "built", lambda: None)
    monkeypatch.setitem(sys.modules, "numba", None)
    fold_kernel.kernel.cache_clear()
    try:
        with pytest.raises(SettingsError, match=r"pip install 'fedmq\[fast\]'"):
            fold_kernel.kernel()
        assert main(["--compiled-fold"]) == ExitCode.USAGE
    finally:
        fold_kernel.kernel.cache_clear()
    assert capsys.readouterr().err.startswith("fl-aggregator: --compiled-fold needs numba")
