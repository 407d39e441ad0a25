"""The compiled loop and the one in numpy give the same sums, to the bit."""

import sys

import hypothesis.extra.numpy as arrays
import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings
from numpy.typing import NDArray

from aggregator.cli import main
from aggregator.rounds import fold_kernel
from aggregator.rounds.exact_sum import ExactSum
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


def exact_sum(num_elements: int, *, is_compiled: bool) -> ExactSum:
    specs = (TensorSpec("w", "float32", (num_elements,)),)
    return ExactSum(specs, kernel=fold_kernel.kernel() if is_compiled else None)


def folded(updates: list[tuple[NDArray[np.float32], int]], *, is_compiled: bool) -> list[bytes]:
    total = exact_sum(len(updates[0][0]), is_compiled=is_compiled)
    for values, weight in updates:
        total.add(0, values.tobytes()[:128], float(weight))
        total.add(128, values.tobytes()[128:], float(weight))
        total.end_update()
    return [limb.tobytes() for limb in total.limbs().values()] + [np.float64(total.bound).tobytes()]


@settings(max_examples=300, deadline=None)
@given(UPDATES)
def test_both_give_the_same_bits(updates: list[tuple[NDArray[np.float32], int]]) -> None:
    assert folded(updates, is_compiled=True) == folded(updates, is_compiled=False)


def test_both_round_what_lies_in_the_middle_alike() -> None:
    steps = np.array([0.5, 1.5, 2.5, -0.5, -1.5, 0.25, 3.0, -0.0], np.float32)
    for grid in (2.0**-32, 2.0**-58):
        values = np.tile((steps * grid).astype(np.float32), 8)
        assert folded([(values, 1)], is_compiled=True) == folded([(values, 1)], is_compiled=False)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("is_compiled", [True, False])
def test_neither_adds_what_is_not_finite(bad: float, is_compiled: bool) -> None:
    total = exact_sum(64, is_compiled=is_compiled)
    values = np.ones(64, np.float32)
    values[63] = bad
    with pytest.raises(UnfitMessage, match="tensor 'w' holds NaN or infinity"):
        total.add(0, values.tobytes(), 1.0)
    assert not any(limb.any() for limb in total.limbs().values())


def test_without_the_compiler_it_is_said_how_to_get_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "numba", None)
    fold_kernel.kernel.cache_clear()
    try:
        with pytest.raises(SettingsError, match=r"pip install 'fedmq\[fast\]'"):
            fold_kernel.kernel()
        assert main(["--compiled-fold"]) == ExitCode.USAGE
    finally:
        fold_kernel.kernel.cache_clear()
    assert capsys.readouterr().err.startswith("fl-aggregator: --compiled-fold needs numba")
