"""One suite for everything that updates can be added to: what the commit rule and the next model rely on."""

from collections.abc import Callable, Iterable
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
from toys import Everything

from aggregator.robust import Rule, Trimmed
from aggregator.rounds.accumulator import Accumulator, Key
from aggregator.rounds.exact_sum import ExactSum
from aggregator.spool.spool import Spool
from aggregator.state.checkpoint import StateDirectory
from aggregator.state.ledger import Accumulated
from broker.wire.specs import TensorSpec, canonical
from console.errors import DamagedFile, UnfitMessage

SPECS = canonical(
    [
        TensorSpec("w", "float32", (40_000,)),
        TensorSpec("b", "float32", (7,)),
        TensorSpec("n", "int64", (3,)),
        TensorSpec("none", "float32", (0,)),
    ]
)
NUM_BYTES = sum(spec.num_bytes for spec in SPECS)
WORKERS = ("a", "b", "c")
WEIGHTS = {"a": 1.0, "b": 3.0, "c": 7.0}
TOTAL = 11
Make = Callable[[], Accumulator]


KINDS: dict[str, Rule | None] = {"exact sum": None, "columns": Trimmed(k=0), "choice": Everything()}
"""What the accumulator goes by: a sum, or a rule over updates on the disk."""


@pytest.fixture(params=KINDS)
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Make:
    rule = KINDS[request.param]
    return lambda: ExactSum(SPECS) if rule is None else Spool(SPECS, rule=rule, folder=tmp_path)


def delta_of(worker: str) -> dict[str, np.ndarray]:
    random = np.random.default_rng(ord(worker))
    return {
        spec.name: random.standard_normal(spec.shape).astype(spec.dtype)
        if spec.is_float
        else random.integers(-9, 9, spec.shape)
        for spec in SPECS
    }


def payload_of(worker: str) -> bytes:
    delta = delta_of(worker)
    return b"".join(delta[spec.name].tobytes() for spec in SPECS)


def add(accumulator: Accumulator, worker: str, *, piece_bytes: int = NUM_BYTES) -> None:
    payload = payload_of(worker)
    accumulator.begin_update(Key(1, worker))
    for offset in range(0, len(payload), piece_bytes):
        accumulator.add(offset, payload[offset : offset + piece_bytes], WEIGHTS[worker])
    accumulator.end_update()


def remove(accumulator: Accumulator, worker: str, *, piece_bytes: int = NUM_BYTES) -> None:
    payload = payload_of(worker)
    for offset in range(0, len(payload), piece_bytes):
        accumulator.remove(offset, payload[offset : offset + piece_bytes], WEIGHTS[worker])
    accumulator.end_removal(Key(1, worker))


def filled(make: Make, workers: Iterable[str] = WORKERS, **changes: int) -> Accumulator:
    accumulator = make()
    for worker in workers:
        add(accumulator, worker, **changes)
    return accumulator


def means_of(accumulator: Accumulator, total: int = TOTAL) -> dict[str, bytes]:
    """Tensor -> the bits of its mean, taken as the next model takes them."""
    means: dict[str, bytes] = {}
    accumulator.judge([spec.name for spec in SPECS])
    for span in accumulator.spans(SPECS):
        num = sum(spec.num_elements for spec in span)
        whole = np.empty(num)
        for block, mean in accumulator.means(span, total, num=num):
            whole[block] = mean
        for spec in span:
            means[spec.name], whole = whole[: spec.num_elements].tobytes(), whole[spec.num_elements :]
        accumulator.forget(span)
    return means


def saved(accumulator: Accumulator, directory: StateDirectory, name: str = "sum-1-00001-2.safetensors") -> Accumulated:
    sha256 = accumulator.save(directory, name)
    return Accumulated(file=name, sha256=sha256, bound=accumulator.bound, num_folded=2, num_samples=4)


def test_the_mean_is_the_weighted_one_or_the_rule_s(make: Make, request: pytest.FixtureRequest) -> None:
    means = means_of(filled(make))
    weights = WEIGHTS if isinstance(make(), ExactSum) else dict.fromkeys(WORKERS, TOTAL / len(WORKERS))
    for spec in SPECS:
        if spec.is_float or weights is WEIGHTS or "columns" in request.node.name:
            products = [weights[worker] * delta_of(worker)[spec.name].astype(np.float64) for worker in WORKERS]
            expected = sum(products, np.zeros(spec.shape)) / TOTAL
        else:  # a rule that chooses has all others move by the median of all
            expected = np.median([delta_of(worker)[spec.name] for worker in WORKERS], axis=0)
        np.testing.assert_allclose(np.frombuffer(means[spec.name]), expected, rtol=1e-12, atol=1e-15)


def test_the_order_of_updates_changes_no_bit(make: Make) -> None:
    expected = means_of(filled(make))
    for workers in permutations(WORKERS):
        assert means_of(filled(make, workers)) == expected


@pytest.mark.parametrize("piece_bytes", [8, 1024, 8 * 9973])
def test_how_an_update_is_cut_changes_no_bit(make: Make, piece_bytes: int) -> None:
    assert means_of(filled(make, WORKERS[:1], piece_bytes=piece_bytes)) == means_of(filled(make, WORKERS[:1]))


@pytest.mark.parametrize("piece_bytes", [1024, NUM_BYTES])
def test_an_update_that_is_taken_out_again_leaves_no_bit(make: Make, piece_bytes: int) -> None:
    accumulator = filled(make, "ba")
    remove(accumulator, "b", piece_bytes=piece_bytes)
    add(accumulator, "c")
    assert accumulator.bound == filled(make, "ca").bound
    assert means_of(accumulator) == means_of(filled(make, "ac"))


def test_an_update_that_was_saved_can_be_taken_out_again(make: Make, tmp_path: Path) -> None:
    directory = StateDirectory(tmp_path)
    committed = saved(filled(make, "ca"), directory)
    again = make()
    again.load(directory, committed)
    remove(again, "c")
    assert means_of(again) == means_of(filled(make, "a"))
    make().load(directory, committed)  # until another commit, the one before is whole


def test_half_an_update_can_be_taken_out_again(make: Make) -> None:
    accumulator = filled(make, "a")
    payload = bytearray(payload_of("b"))
    payload[-4:] = np.float32(np.nan).tobytes()
    half = len(payload) // 16 * 8
    accumulator.begin_update(Key(1, "b"))
    accumulator.add(0, payload[:half], 3.0)
    with pytest.raises(UnfitMessage):
        accumulator.add(half, payload[half:], 3.0)
    accumulator.end_update()
    accumulator.remove(0, payload[:half], 3.0)
    accumulator.end_removal(Key(1, "b"))
    add(accumulator, "b")
    assert accumulator.bound == filled(make, "ab").bound
    assert means_of(accumulator) == means_of(filled(make, "ab"))


def test_a_span_can_be_taken_in_parts(make: Make) -> None:
    whole, parts = filled(make), filled(make)
    for each in (whole, parts):
        each.judge(["w"])
    (span,) = [span for span in whole.spans(SPECS) if "w" in {spec.name for spec in span}]
    (expected,) = [np.concatenate([np.array(mean) for _, mean in whole.means(span, TOTAL)])]
    got = [np.array(mean) for start in (0, 10_000) for _, mean in parts.means(span, TOTAL, start=start, num=10_000)]
    assert np.concatenate(got).tobytes() == expected[:20_000].tobytes()


def test_saved_and_loaded_it_goes_on_to_the_same_bits(make: Make, tmp_path: Path) -> None:
    directory = StateDirectory(tmp_path)
    committed = saved(filled(make, "ca"), directory)
    again = make()
    again.load(directory, committed)
    add(again, "b")
    assert means_of(again) == means_of(filled(make))


def test_a_save_does_not_change_what_comes_after(make: Make, tmp_path: Path) -> None:
    directory = StateDirectory(tmp_path)
    accumulator = filled(make, "a")
    saved(accumulator, directory, "sum-1-00001-1.safetensors")
    add(accumulator, "b")
    saved(accumulator, directory, "sum-1-00001-2.safetensors")
    add(accumulator, "c")
    assert means_of(accumulator) == means_of(filled(make))


def test_what_is_saved_outlives_the_cleaning_after_its_commit(make: Make, tmp_path: Path) -> None:
    directory = StateDirectory(tmp_path)
    accumulator = filled(make, "a")
    saved(accumulator, directory, "sum-1-00001-1.safetensors")
    add(accumulator, "b")
    committed = saved(accumulator, directory)
    directory.remove_sums(1, but={committed.file, *accumulator.files()})
    again = make()
    again.load(directory, committed)
    add(again, "c")
    assert means_of(again) == means_of(filled(make))
    directory.remove_sums(1)
    assert not list(tmp_path.glob("sum-*"))


def test_a_file_that_is_missing_cut_or_changed_is_a_damaged_one(make: Make, tmp_path: Path) -> None:
    directory = StateDirectory(tmp_path)
    accumulator = filled(make, "ab")
    committed = saved(accumulator, directory)
    for name in (committed.file, *accumulator.files()):
        content = (tmp_path / name).read_bytes()
        for broken in (content[:-8], content[:-1] + bytes([content[-1] ^ 1]), None):
            (tmp_path / name).unlink()
            if broken is not None:
                (tmp_path / name).write_bytes(broken)
            with pytest.raises(DamagedFile):
                make().load(directory, committed)
            (tmp_path / name).write_bytes(content)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_refused(make: Make, value: float) -> None:
    payload = bytearray(payload_of("a"))
    payload[-4:] = np.float32(value).tobytes()
    accumulator = make()
    accumulator.begin_update(Key(1, "a"))
    with pytest.raises(UnfitMessage, match="'w' holds NaN or infinity"):
        accumulator.add(0, bytes(payload), 1.0)


def test_it_knows_which_tensors_updates_have(make: Make) -> None:
    assert [name in make() for name in ("w", "n", "at home")] == [True, True, False]


def test_noise_is_added_to_every_element_of_a_sum_or_is_refused(make: Make) -> None:
    accumulator, one = filled(make), 2**32
    if not accumulator.takes_sums:
        with pytest.raises(ValueError, match="noise"):
            accumulator.add_noise(lambda start, count: np.full(count, one))
        return
    before = {name: np.frombuffer(mean) for name, mean in means_of(filled(make)).items()}
    accumulator.add_noise(lambda start, count: np.full(count, TOTAL * one))
    for name, mean in means_of(accumulator).items():
        np.testing.assert_allclose(np.frombuffer(mean), before[name] + 1, rtol=0, atol=1e-12)
