"""Several sets of tensors in one payload."""

import pytest
import torch
from pydantic import ValidationError

from broker.states.tensors import State, chunks, digest_of, specs_of, state_from
from broker.wire import tensor_sets
from broker.wire.codec import decode, encode
from broker.wire.messages import ModelHead
from broker.wire.tensor_sets import MODEL

MODEL_STATE: State = {"fc.weight": torch.ones(2, 3), "n": torch.tensor(3), "a/b": torch.zeros(2)}
CONTROL: State = {"fc.weight": torch.full((2, 3), 0.5, dtype=torch.float64), "fc.bias": torch.tensor([7.0])}


def head_of(state: State, **changes: object) -> ModelHead:
    fields = {"run": "r", "run_id": "r.1", "epoch": 1, "round": 1, "num_rounds": 2, "seed": 0}
    return ModelHead.model_validate({"tensors": specs_of(state), "sha256": digest_of(state)} | fields | changes)


def test_two_sets_travel_as_one_state_and_come_apart_again() -> None:
    together = tensor_sets.join({MODEL: MODEL_STATE, "control": CONTROL})
    assert set(together) == {"fc.weight", "n", "a/b", "control/fc.weight", "control/fc.bias"}
    head, payload = decode(
        encode(head_of(together, sets=("control",)), b"".join(chunks(together, specs_of(together)))), ModelHead
    )
    received = tensor_sets.split(state_from(bytearray(payload), head.tensors), head.sets)
    for name, state in {MODEL: MODEL_STATE, "control": CONTROL}.items():
        assert digest_of(received[name]) == digest_of(state)


def test_specs_are_split_as_states_are() -> None:
    sets = {MODEL: specs_of(MODEL_STATE), "control": specs_of(CONTROL)}
    joined = tensor_sets.join_specs(sets)
    assert joined == specs_of(tensor_sets.join({MODEL: MODEL_STATE, "control": CONTROL}))
    assert tensor_sets.split_specs(joined, ["control"]) == sets


def test_a_slash_in_a_name_means_nothing_unless_the_head_lists_the_set() -> None:
    assert tensor_sets.split({"control/x": 1, "y": 2}, []) == {MODEL: {"control/x": 1, "y": 2}}
    assert tensor_sets.split({"control/x": 1, "y": 2}, ["memory"]) == {MODEL: {"control/x": 1, "y": 2}, "memory": {}}


def test_a_head_without_further_sets_has_the_bytes_that_it_always_had() -> None:
    plain = head_of(MODEL_STATE)
    assert b"sets" not in encode(plain)
    assert decode(encode(plain), ModelHead)[0].sets == ()


@pytest.mark.parametrize("name", ["model", "", "Control", "a/b", "x" * 33])
def test_a_set_has_a_name_that_can_stand_before_a_slash(name: str) -> None:
    with pytest.raises(ValidationError):
        head_of(MODEL_STATE, sets=(name,))
