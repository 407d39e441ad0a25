"""The next global model from the updates of a round, piece by piece: neither model is ever in memory as a whole.

    mean  = sum_k(weight_k * delta_k) / divisor
    model <- model + server_lr * step(mean)     parameters that are trained
    model <- model + mean                       buffers, such as BatchNorm's statistics, and integers

A variance that is stepped twice as far as the mean becomes negative. With staleness the weights are discounted and the
divisor is not, as in FedBuff (Nguyen et al. 2022), so that stale updates move the model less. Integer tensors are
rounded half to even; boolean ones stay as they are. An element that is infinite or NaN stays so: nothing moves it.

A model in float16 or bfloat16 has a master beside it, as a companion in float64: steps of less than half a unit in the
last place add up there, and are not lost in every round.
"""

import math
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import KW_ONLY, dataclass
from itertools import groupby

import numpy as np
import torch

from aggregator.algorithms import Block, FedAvg, Scalars, Step, StepState, added, state_names
from aggregator.rounds.accumulator import Accumulator
from aggregator.state import ModelFile
from aggregator.weighing import Divisors
from broker.states import DTYPES, OnGrid, is_finite
from broker.wire import Specs, TensorSpec, kept, num_elements_of

MASTER = "master"
"""The companion with the values of a model in half precision before they were rounded."""
_HALVES = frozenset({"float16", "bfloat16"})


class LeavesRange(Exception):
    """The mean takes the model out of the range of its dtype. The text names the tensor."""


@dataclass(frozen=True, slots=True)
class NextPiece:
    """A piece of the next model: part of one tensor, or several whole small ones."""

    span: Specs
    """The tensors that it belongs to; all have one dtype."""
    values: torch.Tensor
    """Flat."""
    state: Mapping[str, Block]
    """What is remembered of the same elements, by name: the step's state, and the master."""


@dataclass(frozen=True, slots=True)
class Stepping:
    """How the server steps in one round."""

    step: Step
    server_lr: float
    _: KW_ONLY
    stepped: Collection[str]
    """The names of the tensors that the step moves; all others move by the mean."""
    divisors: Divisors | None
    """None: nothing counts, and model and state stay as they are."""
    scalars: Scalars
    """The step's, of this round."""

    @property
    def is_plain(self) -> bool:
        """Whether it leaves the mean as it is: then all tensors move alike, and small ones together."""
        divisors = self.divisors
        return (
            self.step == FedAvg() and self.server_lr == 1 and (divisors is None or divisors.stepped == divisors.others)
        )


def companions_of(step: Step, specs: Specs, stepped: Collection[str]) -> tuple[str, ...]:
    """The names of what is saved beside a model with these specs."""
    has_halves = not _HALVES.isdisjoint(kept(specs).dtypes) and any(
        spec.dtype in _HALVES and spec.name in stepped for spec in specs
    )
    return (*state_names(step), *((MASTER,) if has_halves else ()))


def norm_of_mean(accumulator: Accumulator, specs: Specs, stepped: Collection[str], divisor: float) -> float:
    """The Euclidean norm of the mean over the stepped elements. The sum is as it was before."""
    squares = []
    for span in _apart(accumulator.spans(specs), stepped):
        if span[0].name in stepped and span[0].name in accumulator:
            squares += [float(np.square(mean).sum()) for _, mean in accumulator.means(span, divisor)]
    return math.sqrt(math.fsum(squares))


def next_model(
    model: ModelFile,
    specs: Specs,
    accumulator: Accumulator,
    stepping: Stepping,
    *,
    state: Mapping[str, ModelFile] | None = None,
) -> Iterator[NextPiece]:
    """The next global model, in the order of ``specs``. Uses up the accumulator.

    ``state`` has the files of what is remembered; what has no file begins. Tensors that are not stepped keep the state
    that the step begins with. LeavesRange if a finite element would not stay so.
    """
    step, stepped, divisors = stepping.step, stepping.stepped, stepping.divisors
    has_master = MASTER in companions_of(step, specs, stepped)
    with ExitStack() as stack:
        remembered = {name: stack.enter_context(file.floats(specs)) for name, file in (state or {}).items()}
        begins = not remembered.keys() >= set(state_names(step))
        spans = accumulator.spans(specs)
        if not stepping.is_plain or has_master:
            spans = _apart(spans, stepped)
        for span, start, values in model.values(specs, spans):
            num, is_stepped = len(values), span[0].name in stepped
            has_own_master = has_master and is_stepped and span[0].dtype in _HALVES
            before = {name: floats.take(num) for name, floats in remembered.items()}
            if begins:
                before = {**step.init(num), **before}
            if has_master and MASTER not in remembered:
                before[MASTER] = _as_float64(values)
            after = {name: np.array(block) for name, block in before.items()}
            if divisors is not None and span[0].name in accumulator:
                divisor = divisors.stepped if is_stepped else divisors.others
                for block, mean in accumulator.means(span, divisor, start=start, num=num):
                    change: Block = mean
                    if is_stepped:
                        old_state = {name: before[name][block] for name in before if name != MASTER}
                        own = _added(stepping, old_state, accumulator, span, start + block.start, len(mean))
                        change, moved = step.apply(mean, own, stepping.scalars)
                        if stepping.server_lr != 1:
                            change = np.multiply(change, stepping.server_lr)
                        for name, floats in moved.items():
                            after[name][block] = floats
                    old = values[block]
                    if has_own_master:
                        old = torch.from_numpy(after[MASTER][block].copy())
                        after[MASTER][block] += change
                    moved_block = _moved(old, torch.from_numpy(change), span[0])
                    if not is_finite(moved_block):
                        _check_stays_finite(values[block], moved_block, span, start + block.start)
                    values[block] = moved_block
                if start + num == num_elements_of(span):
                    accumulator.forget(span)
            yield NextPiece(span, values, after)


def _added(
    stepping: Stepping, state: StepState, accumulator: Accumulator, span: Specs, start: int, num: int
) -> StepState:
    """The state that the step goes on from. LeavesRange if what it keeps a sum of does not fit into it."""

    def total() -> OnGrid:
        found = accumulator.exactly(span, start, num)
        assert found is not None, "a step that keeps sums exactly needs updates that are added so"
        return found

    try:
        return added(stepping.step, total, state, stepping.scalars)
    except OverflowError as error:
        raise LeavesRange(f"what the server keeps beside tensor '{span[0].name}': {error}; lower --lr") from error


def _check_stays_finite(old: torch.Tensor, new: torch.Tensor, span: Specs, first: int) -> None:
    """``first`` is the place in the span of the first element of both."""
    broken = torch.isfinite(old) & ~torch.isfinite(new)
    if not broken.any():
        return
    place = first + int(broken.nonzero()[0])
    for spec in span:
        if place < spec.num_elements:
            raise LeavesRange(f"the mean leaves the range of tensor '{spec.name}'; lower --server-lr or --lr")
        place -= spec.num_elements


def _apart(spans: Iterable[Specs], stepped: Collection[str]) -> Iterator[Specs]:
    """The spans, cut where a tensor that is stepped lies beside one that is not."""
    for span in spans:
        for _, alike in groupby(span, key=lambda spec: spec.name in stepped):
            yield tuple(alike)


def _as_float64(values: torch.Tensor) -> Block:
    return values.to(torch.float64).numpy()


def _moved(old: torch.Tensor, change: torch.Tensor, spec: TensorSpec) -> torch.Tensor:
    dtype = DTYPES[spec.dtype]
    if spec.is_float:
        return change.add_(old).to(dtype)
    limits = torch.iinfo(dtype)
    before, rounded = old.to(torch.int64), change.round_().to(torch.int64)
    moved = before + rounded
    has_wrapped = ((before ^ moved) & (rounded ^ moved)) < 0
    moved = torch.where(has_wrapped, torch.where(rounded < 0, limits.min, limits.max), moved)
    return moved.clamp_(limits.min, limits.max).to(dtype)
