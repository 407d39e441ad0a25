"""The exact sum: the same bits whatever the order, the duplicates, the split and the cuts; and the right value."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from exact_sums import add_sum, mean_of
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from aggregator.rounds import exact_sum as mean
from aggregator.rounds.accumulator import Key
from aggregator.rounds.exact_sum import ExactSum
from aggregator.rounds.fold_kernel import kernel
from aggregator.state.checkpoint import StateDirectory
from broker.states.tensors import DTYPES, State, chunks
from broker.wire.buffers import cut
from broker.wire.limbs import limb_bytes_of
from broker.wire.specs import Specs, TensorSpec, canonical

GRID = 2**58
FLOATS = ("float64", "float32", "float16", "bfloat16")
SHAPES = ((), (0,), (1,), (3,), (2, 0, 3), (5, 7), (40,))
DISCOUNTS = (1.0, 2**-0.5, 3**-0.5)


@dataclass(frozen=True)
class Contribution:
    """One update: who sent it, its tensors, and what it counts."""

    key: int
    state: State
    payload: bytes
    weight: float


@st.composite
def specs_of_models(draw: st.DrawFn) -> Specs:
    kinds = st.tuples(st.sampled_from([*FLOATS, "int64"]), st.sampled_from(SHAPES))
    drawn = draw(st.lists(kinds, min_size=1, max_size=4))
    return canonical(TensorSpec(f"t{n}", dtype, shape) for n, (dtype, shape) in enumerate(drawn))  # type: ignore[arg-type]


def contribution(specs: Specs, key: int, *, seed: int, scale: float, weight: float) -> Contribution:
    """Values of both signs, from zero to about 4 times ``scale``."""
    random = np.random.default_rng([seed, key])
    state: State = {}
    for spec in specs:
        values = random.standard_normal(spec.num_elements) * scale * random.integers(0, 2, spec.num_elements)
        if not spec.is_float:
            values = np.rint(values)
        state[spec.name] = torch.tensor(values.tolist(), dtype=DTYPES[spec.dtype]).reshape(spec.shape)
    return Contribution(key, state, b"".join(chunks(state, specs)), weight)


@st.composite
def federations(draw: st.DrawFn) -> tuple[Specs, list[Contribution]]:
    specs = draw(specs_of_models())
    seed = draw(st.integers(0, 2**32))
    weights = st.tuples(st.integers(1, 100_000), st.sampled_from(DISCOUNTS))
    drawn = draw(st.lists(st.tuples(weights, st.sampled_from([1e-7, 1e-3, 1.0, 100.0])), min_size=1, max_size=7))
    return specs, [
        contribution(specs, key, seed=seed, scale=scale, weight=num_samples * discount)
        for key, ((num_samples, discount), scale) in enumerate(drawn)
    ]


def whole(each: Contribution) -> list[tuple[int, bytes]]:
    return [(0, each.payload)]


Pieces = Callable[[Contribution], Sequence[tuple[int, bytes]]]


def summed(specs: Specs, contributions: Sequence[Contribution], pieces: Pieces = whole) -> ExactSum:
    """The sum of the contributions; one with a key that is in already is left out, as the ledger does."""
    result, seen = ExactSum(specs), set()
    for each in contributions:
        if each.key in seen:
            continue
        seen.add(each.key)
        for offset, piece in pieces(each):
            result.add(offset, piece, each.weight)
        result.end_update()
    return result


def bits(exact_sum: ExactSum) -> dict[str, bytes]:
    """Every limb, and what is made of them."""
    found = {name: array.tobytes() for name, array in exact_sum.limbs().items()}
    return found | {spec.name: mean_of(exact_sum, spec, 7).tobytes() for spec in exact_sum.specs}


def sum_bits(exact_sum: ExactSum) -> tuple[dict[str, bytes], float]:
    return bits(exact_sum), exact_sum.bound


def removed(exact_sum: ExactSum, each: Contribution, pieces: Pieces = whole) -> None:
    for offset, piece in pieces(each):
        exact_sum.remove(offset, piece, each.weight)
    exact_sum.end_removal(Key(1, str(each.key)))


def reference(specs: Specs, contributions: Sequence[Contribution]) -> dict[str, list[Fraction]]:
    """The same sum, plain and slow: each float64 product rounded once, half to even, to a multiple of 2**-58."""
    totals = {spec.name: [Fraction(0)] * spec.num_elements for spec in specs}
    for each in contributions:
        for spec in specs:
            for index, value in enumerate(each.state[spec.name].double().flatten().tolist()):
                totals[spec.name][index] += Fraction(round(Fraction(value * each.weight) * GRID), GRID)
    return totals


def value_of(exact_sum: ExactSum, spec: TensorSpec) -> list[Fraction]:
    limbs = exact_sum.limbs()
    pairs = zip(limbs[f"high.{spec.name}"].tolist(), limbs[f"low.{spec.name}"].tolist(), strict=True)
    return [Fraction(high, 2**32) + Fraction(low, GRID) for high, low in pairs]


@settings(max_examples=150)
@given(federations(), st.data())
def test_any_order_and_any_duplicates_give_the_same_bits(
    federation: tuple[Specs, list[Contribution]], data: st.DataObject
) -> None:
    specs, contributions = federation
    again = data.draw(st.lists(st.sampled_from(contributions), max_size=5))
    shuffled = data.draw(st.permutations([*contributions, *again]))

    assert bits(summed(specs, shuffled)) == bits(summed(specs, contributions))


@settings(max_examples=150)
@given(federations(), st.data())
def test_any_split_into_partial_sums_gives_the_same_bits(
    federation: tuple[Specs, list[Contribution]], data: st.DataObject
) -> None:
    specs, contributions = federation
    partial: list[list[Contribution]] = [[], [], []]
    for each in contributions:
        partial[data.draw(st.integers(0, 2))].append(each)
    total = ExactSum(specs)
    for index in data.draw(st.permutations(range(3))):
        add_sum(total, summed(specs, partial[index]))

    assert bits(total) == bits(summed(specs, contributions))


@settings(max_examples=100)
@given(federations(), st.data())
def test_partial_sums_that_travel_as_limbs_in_any_cut_give_the_same_bits(
    federation: tuple[Specs, list[Contribution]], data: st.DataObject
) -> None:
    specs, contributions = federation
    split = data.draw(st.integers(0, len(contributions)))
    total = ExactSum(specs)
    for part in (contributions[split:], contributions[:split]):
        partial = summed(specs, part)
        limbs = partial.limbs()
        payload = b"".join(limbs[spec.name].tobytes() for spec in partial.limb_specs)
        size = len(payload)
        cuts = data.draw(st.sets(st.sampled_from(range(8, size, 8)), max_size=4)) if size > 8 else set()
        for start, stop in pairwise([0, *sorted(cuts), size]):
            total.add_limbs(start, payload[start:stop], bound=partial.bound)
        total.end_update()

    assert bits(total) == bits(summed(specs, contributions))


@settings(max_examples=150)
@given(federations(), st.data())
def test_any_split_into_partial_sums_that_travel_gives_the_same_bits_and_bound(
    federation: tuple[Specs, list[Contribution]], data: st.DataObject
) -> None:
    """Some updates in partial sums, which travel in parts of any size, some straight into the total."""
    specs, contributions = federation
    split: list[list[Contribution]] = [[], [], []]
    for each in contributions:
        split[data.draw(st.integers(0, 2))].append(each)
    total = summed(specs, split[0])
    for contributed in split[1:]:
        partial, offset = summed(specs, contributed), 0
        for part in cut(partial.limb_pieces(), data.draw(st.integers(1, 40).map(lambda n: 8 * n))):
            total.add_limbs(offset, part, bound=partial.bound)
            offset += len(part)
        assert offset == limb_bytes_of(specs)
        total.end_update()
    assert bits(total) == bits(summed(specs, contributions))
    assert total.bound == pytest.approx(summed(specs, contributions).bound)


@settings(max_examples=150)
@given(federations(), st.data())
def test_any_cut_of_the_payload_gives_the_same_bits(
    federation: tuple[Specs, list[Contribution]], data: st.DataObject
) -> None:
    specs, contributions = federation

    def pieces(each: Contribution) -> Sequence[tuple[int, bytes]]:
        size = len(each.payload)
        cuts = data.draw(st.sets(st.sampled_from(range(8, size, 8)), max_size=4)) if size > 8 else set()
        return [(start, each.payload[start:stop]) for start, stop in pairwise([0, *sorted(cuts), size])]

    assert bits(summed(specs, contributions, pieces)) == bits(summed(specs, contributions))


@settings(max_examples=40)
@given(federations(), st.data())
def test_saving_and_loading_at_any_moment_gives_the_same_bits(
    tmp_path_factory: pytest.TempPathFactory, federation: tuple[Specs, list[Contribution]], data: st.DataObject
) -> None:
    specs, contributions = federation
    before = data.draw(st.integers(0, len(contributions)))
    half = summed(specs, contributions[:before])
    directory = StateDirectory(tmp_path_factory.mktemp("state"))
    sha256 = directory.save_sum("sum.safetensors", half.limbs())
    loaded = ExactSum(specs)
    directory.load_sum("sum.safetensors", sha256, loaded.limbs())
    loaded.bound = half.bound
    for each in contributions[before:]:
        loaded.add(0, each.payload, each.weight)
        loaded.end_update()

    assert bits(loaded) == bits(summed(specs, contributions))


@settings(max_examples=100)
@given(federations())
def test_the_sum_is_that_of_plain_fractions_on_the_same_grid(federation: tuple[Specs, list[Contribution]]) -> None:
    specs, contributions = federation
    exact_sum, expected = summed(specs, contributions), reference(specs, contributions)

    for spec in specs:
        assert value_of(exact_sum, spec) == expected[spec.name]
        divided = mean_of(exact_sum, spec, 7)
        assert divided.shape == spec.shape
        for got, wanted in zip(divided.flatten().tolist(), expected[spec.name], strict=True):
            assert abs(Fraction(got) - wanted / 7) <= abs(wanted / 7) * Fraction(1, 2**51)


@settings(max_examples=100)
@given(
    seed=st.integers(0, 2**32),
    num_samples=st.lists(st.integers(1, 100_000), min_size=1, max_size=20),
    exponents=st.tuples(st.floats(-7, 2), st.floats(-7, 2)),
)
def test_the_mean_of_float32_deltas_is_within_one_ulp_of_the_true_one(
    seed: int, num_samples: list[int], exponents: tuple[float, float]
) -> None:
    """Of the rational mean, rounded to float32. Where deltas cancel almost wholly, the grid shows beside the ulp:

    each update is off by at most 2**-59 after weighting, so the mean by num_updates * 2**-59 / total. Deltas of
    training, 1e-7 to 1e2, whose mean does not vanish, have an ulp far above that.
    """
    low, high = sorted(exponents)
    random = np.random.default_rng(seed)
    shape = (len(num_samples), 20)
    deltas = (10.0 ** random.uniform(low, high, shape) * random.choice([-1, 1], shape)).astype(np.float32)
    specs = (TensorSpec("w", "float32", (20,)),)
    total = sum(num_samples)
    exact_sum = ExactSum(specs)
    for weight, delta in zip(num_samples, deltas, strict=True):
        exact_sum.add(0, delta.tobytes(), weight)
        exact_sum.end_update()
    got = mean_of(exact_sum, specs[0], total).astype(np.float32)

    grid = Fraction(len(num_samples), 2**59 * total)
    for index in range(20):
        column = zip(num_samples, deltas[:, index].tolist(), strict=True)
        true = sum((weight * Fraction(value) for weight, value in column), Fraction(0)) / total
        ulp = Fraction(float(np.spacing(np.abs(np.float32(float(true))))))
        assert abs(Fraction(float(got[index])) - true) <= ulp + grid


@settings(max_examples=100)
@given(st.integers(0, 2**32), st.sampled_from([1e-18, 1e-9, 1.0, 1e3]), st.integers(1, 100))
def test_the_fast_addition_and_the_plain_one_give_the_same_limbs(seed: int, scale: float, weight: int) -> None:
    values = np.random.default_rng(seed).uniform(-scale, scale, 300)
    values[:4] = [0.0, -0.0, scale, 2.0**-59 / weight]
    assert np.abs(values).max() * weight < mean._SMALL
    limbs: list[tuple[NDArray[np.int64], NDArray[np.int32]]] = []
    for add in (mean._add_small, mean._add_any):
        high, low = np.zeros(300, np.int64), np.zeros(300, np.int32)
        add(high, low, values, float(weight), mean.Scratch())
        limbs.append((high, low))

    np.testing.assert_array_equal(limbs[0][0], limbs[1][0])
    np.testing.assert_array_equal(limbs[0][1], limbs[1][1])


def test_ties_on_the_grid_go_to_even_on_both_paths() -> None:
    values = np.array([0.5, 1.5, 2.5, -0.5, -1.5, 2**26 + 0.5, 2**25 + 0.5]) / GRID
    for add in (mean._add_small, mean._add_any):
        high, low = np.zeros(7, np.int64), np.zeros(7, np.int32)
        add(high, low, values, 1.0, mean.Scratch())
        assert (high * 2**26 + low).tolist() == [0, 2, 2, 0, -2, 2**26, 2**25]


def test_the_mean_of_an_update_alone_is_the_update_itself(tmp_path: Path) -> None:
    specs = (TensorSpec("w", "float32", (1000,)),)
    values = np.random.default_rng(0).normal(0, 1e-3, 1000).astype(np.float32)
    exact_sum = ExactSum(specs)
    exact_sum.add(0, values.tobytes(), 12_345)
    exact_sum.end_update()
    np.testing.assert_array_equal(mean_of(exact_sum, specs[0], 12_345).astype(np.float32), values)


@given(federations(), federations(), st.data(), st.booleans(), st.booleans())
def test_what_is_removed_was_never_there_whatever_was_added_and_removed_meanwhile(
    ours: tuple[Specs, list[Contribution]],
    others: tuple[Specs, list[Contribution]],
    data: st.DataObject,
    is_compiled: bool,
    is_cut: bool,
) -> None:
    """Adds in any order, removes some in any order, with more than 32 steps between two carries and in other pieces."""
    specs, kept = ours
    gone = [
        contribution(specs, 100 + each.key, seed=each.key, scale=10.0 ** (each.key - 3), weight=each.weight)
        for each in others[1]
    ] * data.draw(st.sampled_from([1, 6]))
    steps = data.draw(st.permutations([*((True, each) for each in kept), *((False, each) for each in gone)]))
    total = ExactSum(specs, kernel=kernel() if is_compiled else None)
    waiting: list[Contribution] = []
    for is_kept, each in steps:
        total.add(0, each.payload, each.weight)
        total.end_update()
        if not is_kept:
            waiting.append(each)
        if waiting and data.draw(st.booleans()):
            removed(total, waiting.pop(data.draw(st.integers(0, len(waiting) - 1))))
    for each in waiting:
        removed(total, each, (lambda each: in_pieces(each, 8)) if is_cut else whole)
    assert sum_bits(total) == sum_bits(summed(specs, kept))


def in_pieces(each: Contribution, num_bytes: int) -> list[tuple[int, bytes]]:
    payload = each.payload
    return [(offset, payload[offset : offset + num_bytes]) for offset in range(0, len(payload), num_bytes)]


@given(federations(), federations())
def test_a_partial_sum_that_is_removed_was_never_there(
    ours: tuple[Specs, list[Contribution]], others: tuple[Specs, list[Contribution]]
) -> None:
    specs, kept = ours
    gone = [contribution(specs, 100 + each.key, seed=1, scale=1.0, weight=each.weight) for each in others[1]]
    total, partial = summed(specs, kept), summed(specs, gone)
    add_sum(total, partial)
    add_sum(total, summed(specs, gone[:1]))
    for one in (partial, summed(specs, gone[:1])):
        offset = 0
        for piece in one.limb_pieces():
            total.remove_limbs(offset, piece, bound=one.bound)
            offset += len(piece)
        total.end_removal(Key(1, "100"))
    assert sum_bits(total) == sum_bits(summed(specs, kept))
