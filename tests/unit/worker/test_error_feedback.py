"""What compression leaves out of one update is in the next."""

import pytest
import torch

from broker.states.compression import Encoding
from broker.states.tensors import State, digest_of, specs_of
from broker.wire.messages import Compression
from worker.rounds.error_feedback import compress
from worker.rounds.trainer import Diverged


def encoding_of(state: State, method: str) -> Encoding:
    return Encoding(specs_of(state), Compression.parse(method))


def test_what_topk_leaves_out_comes_when_it_has_grown() -> None:
    """Nine elements grow by 1 and one by 5 a round; with one element an update, each has its turn."""
    delta = {"w": torch.ones(2, 5)}
    delta["w"][0, 0] = 5.0
    encoding = encoding_of(delta, "topk:0.1")
    residual: State = {}
    total = torch.zeros(2, 5)
    for number in range(40):
        compressed = compress(delta, residual, encoding, seed=number)
        residual = compressed.residual
        total += encoding.decoded(compressed.encoded, encoding.lossy[0])
    assert torch.equal(total + residual["w"], 40 * delta["w"])
    assert int((total != 0).sum()) == 10
    assert float(residual["w"].max()) < 20


def test_what_travels_as_it_is_leaves_nothing() -> None:
    delta = {"w": torch.randn(20, 20), "b": torch.randn(20), "n": torch.tensor([3])}
    assert set(compress(delta, {}, encoding_of(delta, "int8"), seed=0).residual) == {"w"}
    plain = compress(delta, {}, encoding_of(delta, "none"), seed=0)
    assert plain.residual == {}
    assert digest_of(plain.encoded) == digest_of(delta)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_a_residual_is_at_least_single_precision(dtype: torch.dtype) -> None:
    delta = {"w": torch.randn(20, 20).to(dtype)}
    residual = compress(delta, {}, encoding_of(delta, "int8"), seed=0).residual["w"]
    assert residual.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert float(residual.abs().max()) > 0


def test_the_arguments_stay_as_they_are() -> None:
    delta, residual = {"w": torch.randn(20, 20)}, {"w": torch.randn(20, 20)}
    before = digest_of(delta), digest_of(residual)
    compress(delta, residual, encoding_of(delta, "int8"), seed=0)
    assert (digest_of(delta), digest_of(residual)) == before


def test_a_sum_that_is_not_finite_is_diverged() -> None:
    largest = torch.finfo(torch.float32).max
    delta = {"w": torch.full((20, 20), largest)}
    with pytest.raises(Diverged, match="leaves the range of 'w'"):
        compress(delta, delta, encoding_of(delta, "int8"), seed=0)
