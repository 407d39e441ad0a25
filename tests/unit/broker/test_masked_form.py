"""What a masked update looks like: as many integers as the delta has elements, and a few beside them."""

import pytest

from broker.states import MaskedEncoding
from broker.wire import EXTRAS, DifferentialPrivacy, Masking, Specs, TensorSpec, mask_sizes, num_extras

COUNT = TensorSpec("count", "int64", ())
DELTA: Specs = (TensorSpec("b", "float32", (3,)), TensorSpec("w", "float32", (2, 3)))
RING64 = Masking(step=2.0**-32, most=1024.0, min_sites=3, keepers=("ethics",), metrics=("train.loss", "eval.loss"))
RING32 = RING64.model_copy(update={"bits": 32})
ADAPTIVE = DifferentialPrivacy(clip=1.0, noise=1.0, epsilon=8.0, delta=1e-5, quantile=0.5)


@pytest.mark.parametrize(("masking", "sizes"), [(RING64, (5 + 9, 0)), (RING32, (5, 9))])
def test_there_is_an_integer_for_each_element_and_64_bits_for_what_is_beside(
    masking: Masking, sizes: tuple[int, int]
) -> None:
    encoding = MaskedEncoding(DELTA, masking)
    assert mask_sizes(encoding.encoded) == sizes
    assert {spec.name: spec.shape for spec in encoding.encoded} == {
        EXTRAS: (5,),
        **{spec.name: spec.shape for spec in DELTA},
    }
    assert [spec.item_bytes for spec in encoding.encoded] == sorted(
        (spec.item_bytes for spec in encoding.encoded), reverse=True
    )
    assert list(encoding.folded_from([(0, b"as it is")])) == [(0, b"as it is")]


def test_with_an_adaptive_clip_there_is_one_more() -> None:
    assert (num_extras(RING64), num_extras(RING64, ADAPTIVE)) == (5, 6)


def test_a_model_with_a_tensor_of_that_name_is_refused() -> None:
    with pytest.raises(ValueError, match="rename it"):
        MaskedEncoding((TensorSpec(EXTRAS, "float32", (2,)),), RING64)


def test_a_counter_has_room_in_64_bits_and_is_refused_in_32() -> None:
    assert mask_sizes(MaskedEncoding((COUNT, *DELTA), RING64).encoded) == (5 + 10, 0)
    with pytest.raises(ValueError, match=r"'count' counts in whole numbers.*--shared '!count'"):
        MaskedEncoding((COUNT, *DELTA), RING32)
