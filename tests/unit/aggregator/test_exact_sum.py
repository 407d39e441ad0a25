"""The exact sum at its edges; that it is exact is shown in tests/property."""

import numpy as np
import pytest
import torch
from exact_sums import add_sum, mean_of
from unit.aggregator.embedded_run import payload_of

from aggregator.rounds.exact_sum import MAX_SUM, ExactSum
from broker.states.tensors import specs_of
from broker.wire.specs import TensorSpec, canonical
from console.errors import UnfitMessage

SPECS = (TensorSpec("a", "float32", (4,)), TensorSpec("b", "float32", (2,)))


def summed(values: list[float]) -> ExactSum:
    exact_sum = ExactSum(SPECS)
    exact_sum.add(0, np.array(values, np.float32).tobytes(), 1.0)
    exact_sum.end_update()
    return exact_sum


def values_of(exact_sum: ExactSum, total: int = 1) -> list[float]:
    return [value for spec in exact_sum.specs for value in mean_of(exact_sum, spec, total).flatten().tolist()]


def test_a_new_sum_is_zero() -> None:
    assert values_of(ExactSum(SPECS)) == [0.0] * 6


def test_what_is_added_is_there_times_its_weight_over_the_total() -> None:
    exact_sum = summed([1, 2, 3, 4, 5, 6])
    exact_sum.add(0, np.array([1, 1, 1, 1, 1, 1], np.float32).tobytes(), 3.0)
    exact_sum.end_update()
    assert values_of(exact_sum, 4) == [1.0, 1.25, 1.5, 1.75, 2.0, 2.25]


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_a_piece_with_nan_or_infinity_is_unfit_and_leaves_the_sum_as_it_was(bad: float, dtype: torch.dtype) -> None:
    good = {"a": torch.ones(3, dtype=dtype), "b": torch.ones(2, dtype=dtype)}
    exact_sum = ExactSum(specs_of(good))
    exact_sum.add(0, payload_of(good), 2.0)
    exact_sum.end_update()
    for index in range(2):
        broken = {"a": torch.ones(3, dtype=dtype), "b": torch.ones(2, dtype=dtype)}
        broken["b"][index] = bad
        with pytest.raises(UnfitMessage, match="tensor 'b' holds NaN or infinity"):
            exact_sum.add(0, payload_of(broken), 2.0)
    assert values_of(exact_sum) == [2.0] * 5
    assert exact_sum.bound == 2.0


@pytest.mark.parametrize("value", [MAX_SUM, -MAX_SUM, 3e38])
def test_a_piece_that_leaves_the_range_is_unfit_and_leaves_the_sum_as_it_was(value: float) -> None:
    exact_sum = summed([1, 2, 3, 4, 5, 6])
    with pytest.raises(UnfitMessage, match="must stay below"):
        exact_sum.add(0, np.array([1, 1, 1, 1, 1, value], np.float32).tobytes(), 1.0)
    assert values_of(exact_sum) == [1, 2, 3, 4, 5, 6]


def test_the_range_is_that_of_all_updates_together() -> None:
    exact_sum = summed([2.0**29] * 6)
    with pytest.raises(UnfitMessage):
        exact_sum.add(0, np.full(6, -(2.0**29), np.float32).tobytes(), 1.0)
    exact_sum.add(0, np.full(6, 2.0**28, np.float32).tobytes(), 1.0)
    exact_sum.end_update()
    assert values_of(exact_sum) == [2.0**29 + 2.0**28] * 6


def test_partial_sums_that_leave_the_range_together_are_unfit() -> None:
    first, second = summed([2.0**29] * 6), summed([2.0**29] * 6)
    with pytest.raises(UnfitMessage):
        add_sum(first, second)
    assert values_of(first) == [2.0**29] * 6


def test_the_largest_products_are_added_exactly() -> None:
    specs = (TensorSpec("w", "float64", (3,)),)
    exact_sum = ExactSum(specs)
    values = np.array([2.0**18 + 2.0**-30, -(2.0**29) + 2.0**-20, 2.0**-58])
    exact_sum.add(0, values.tobytes(), 1.0)
    exact_sum.end_update()
    assert mean_of(exact_sum, specs[0], 1).tolist() == values.tolist()


@pytest.mark.parametrize("num_updates", [31, 32, 33, 64, 65, 200])
def test_many_updates_are_carried_in_time(num_updates: int) -> None:
    """Each leaves the most below ``high`` that there can be: half a step of it."""
    specs = (TensorSpec("w", "float64", (2,)),)
    exact_sum, value = ExactSum(specs), np.array([2.0**-33, -(2.0**-33)])
    for _ in range(num_updates):
        exact_sum.add(0, value.tobytes(), 1.0)
        exact_sum.end_update()
    assert mean_of(exact_sum, specs[0], 1).tolist() == (num_updates * value).tolist()
    assert np.abs(exact_sum.limbs()["low.w"]).max() <= 2**25


def test_many_partial_sums_are_carried_in_time() -> None:
    specs = (TensorSpec("w", "float64", (1,)),)
    total = ExactSum(specs)
    for _ in range(100):
        part = ExactSum(specs)
        for _ in range(31):
            part.add(0, np.array([2.0**-33]).tobytes(), 1.0)
            part.end_update()
        add_sum(total, part)
    assert mean_of(total, specs[0], 1).tolist() == [3100 * 2.0**-33]


def test_equal_values_have_equal_limbs_however_they_came_about() -> None:
    specs = (TensorSpec("w", "float64", (1,)),)
    limbs = []
    for values in ([2.0**-33, 2.0**-33], [2.0**-32, 0.0], [3.0, 2.0**-32 - 3.0]):
        exact_sum = ExactSum(specs)
        for value in values:
            exact_sum.add(0, np.array([value]).tobytes(), 1.0)
            exact_sum.end_update()
        limbs.append([array.tolist() for array in exact_sum.limbs().values()])
    assert limbs[0] == limbs[1] == limbs[2]


def test_all_dtypes_and_shapes_are_summed_side_by_side() -> None:
    state = {
        "double": torch.tensor([[1.5, -2.5]], dtype=torch.float64),
        "single": torch.tensor(0.25),
        "half": torch.tensor([1.5, -65504.0], dtype=torch.float16),
        "brain": torch.tensor([1.5, 2.0**20], dtype=torch.bfloat16),
        "whole": torch.tensor([7, -(2**20)]),
        "empty": torch.zeros(0, 3),
        "none": torch.zeros(0, dtype=torch.bfloat16),
    }
    exact_sum = ExactSum(specs_of(state))
    exact_sum.add(0, payload_of(state), 2.0)
    exact_sum.end_update()
    for spec in exact_sum.specs:
        expected = 2.0 * state[spec.name].double().numpy()
        np.testing.assert_array_equal(mean_of(exact_sum, spec, 1), expected)
        assert mean_of(exact_sum, spec, 1).shape == spec.shape


def test_blocks_of_any_length_are_summed() -> None:
    for num in (2**15 - 1, 2**15, 2**15 + 1, 2**16 + 3):
        specs = (TensorSpec("w", "float32", (num,)),)
        values = np.random.default_rng(num).normal(size=num).astype(np.float32)
        exact_sum = ExactSum(specs)
        exact_sum.add(0, values.tobytes(), 1.0)
        exact_sum.end_update()
        np.testing.assert_array_equal(mean_of(exact_sum, specs[0], 1).astype(np.float32), values)


def test_a_piece_may_span_many_tensors_and_begin_within_one() -> None:
    specs = canonical(TensorSpec(f"t{n}", "float32", (n,)) for n in range(6))
    values = np.arange(15, dtype=np.float32)
    exact_sum = ExactSum(specs)
    for start, stop in ((0, 8), (8, 48), (48, 60)):
        exact_sum.add(start, values.tobytes()[start:stop], 1.0)
    exact_sum.end_update()
    assert values_of(exact_sum) == values.tolist()


def test_a_sum_takes_twelve_bytes_a_parameter() -> None:
    exact_sum = ExactSum((TensorSpec("w", "float16", (1000,)),))
    assert sum(array.nbytes for array in exact_sum.limbs().values()) == 12_000


def test_a_forgotten_tensor_is_gone_with_its_group_and_the_others_are_not() -> None:
    specs = (*SPECS, TensorSpec("c", "float32", (2**15 - 5,)), TensorSpec("d", "float64", (1,)))
    exact_sum = ExactSum(specs)
    exact_sum.add(0, np.array([1, 2, 3, 4, 5, 6], np.float32).tobytes(), 1.0)
    exact_sum.end_update()
    exact_sum.forget(specs[:1])  # a and b share a block, in which c has no room
    assert mean_of(exact_sum, specs[1], 1).tolist() == [5, 6]
    exact_sum.forget(specs[1:2])
    for gone in specs[:2]:
        with pytest.raises(KeyError):
            mean_of(exact_sum, gone, 1)
    for there in specs[2:]:
        assert not mean_of(exact_sum, there, 1).any()


def test_tensors_of_one_block_that_follow_each_other_are_taken_together() -> None:
    shapes = {"a": 10, "b": 10, "c": 2**15 - 20, "d": 10, "e": 10}
    summed = tuple(TensorSpec(name, "float32", (size,)) for name, size in shapes.items())
    at_home = TensorSpec("at home", "float32", (3,))
    model = (*summed[:2], at_home, *summed[2:])
    assert [[spec.name for spec in span] for span in ExactSum(summed).spans(model)] == [
        ["a", "b"],
        ["at home"],
        ["c"],
        ["d", "e"],
    ]


def test_tensors_that_share_a_block_keep_their_own_sums_wherever_a_piece_is_cut() -> None:
    sizes = {"a": (3, 5), "b": (), "c": (0,), "d": (30_000,), "e": (2_800,), "f": (40_000,), "g": (7,)}
    specs = canonical(TensorSpec(name, "float32", shape) for name, shape in sizes.items())
    values = np.arange(sum(spec.num_elements for spec in specs), dtype=np.float32)
    payload = values.tobytes()
    whole, in_pieces = ExactSum(specs), ExactSum(specs)
    whole.add(0, payload, 3.0)
    for start in range(0, len(payload), 8 * 1001):
        in_pieces.add(start, payload[start : start + 8 * 1001], 3.0)
    for each in (whole, in_pieces):
        each.end_update()
        assert values_of(each, 3) == values.tolist()
        assert mean_of(each, specs[0], 3).shape == (3, 5)


@pytest.mark.parametrize(
    ("high", "low", "bound"),
    [
        pytest.param(2**32 * 3, 0, 1.0, id="higher than its bound"),
        pytest.param(-(2**63), 0, 1.0, id="lowest"),
        pytest.param(0, 2**25 + 1, 1.0, id="not carried"),
        pytest.param(0, 0, MAX_SUM, id="out of range"),
        pytest.param(0, 0, float("nan"), id="bound is no number"),
        pytest.param(0, 0, -1.0, id="negative bound"),
    ],
)
def test_limbs_that_cannot_be_are_unfit_and_leave_the_sum_as_it_was(high: int, low: int, bound: float) -> None:
    exact_sum = summed([1, 2, 3, 4, 5, 6])
    payload = np.full(6, high, np.int64).tobytes() + np.full(6, low, np.int32).tobytes()
    with pytest.raises(UnfitMessage):
        exact_sum.add_limbs(0, payload, bound=bound)
    assert values_of(exact_sum) == [1, 2, 3, 4, 5, 6]
    assert exact_sum.bound == 6.0


def test_means_by_block_are_those_of_the_whole() -> None:
    specs = (TensorSpec("w", "float32", (2**16 + 3,)),)
    exact_sum = ExactSum(specs)
    exact_sum.add(0, np.random.default_rng(0).normal(size=2**16 + 3).astype(np.float32).tobytes(), 3.0)
    exact_sum.end_update()
    blocks = np.concatenate([mean.copy() for _, mean in exact_sum.means(specs, 7)])
    limbs = exact_sum.limbs()
    np.testing.assert_array_equal(blocks, (limbs["high.w"] * 2.0**-32 + limbs["low.w"] * 2.0**-58) / 7)
