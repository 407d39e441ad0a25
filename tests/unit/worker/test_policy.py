"""What a site asks of a run before it answers."""

from typing import Any

import pytest

from broker.wire import DifferentialPrivacy, Masking
from broker.wire.messages import LocalTraining, ModelHead
from broker.wire.specs import TensorSpec
from worker.policy import WorkerPolicy

TENSORS = (TensorSpec("body.weight", "float32", (2, 2)), TensorSpec("head.bias", "float32", (2,)))
TRAINED = {"body.weight", "head.bias"}
MASKING = Masking(step=2.0**-32, most=2.0**30, min_sites=3, keepers=("ethics",))
PRIVACY = DifferentialPrivacy(clip=1, noise=4, epsilon=8, delta=1e-5)


def head(**changes: Any) -> ModelHead:
    fields = {"tensors": TENSORS, "sha256": "0" * 64, "run": "r", "run_id": "r.1", "epoch": 1, "round": 3}
    return ModelHead.model_validate(fields | {"num_rounds": 9, "seed": 0} | changes)


def objection(policy: WorkerPolicy, **changes: Any) -> str | None:
    return policy.objection_to(head(**changes), trained=lambda: TRAINED)


def test_without_limits_any_head_is_answered() -> None:
    assert objection(WorkerPolicy(), local=LocalTraining(max_steps=1, batch_size=1)) is None


@pytest.mark.parametrize(
    ("protection", "said"),
    [
        ((), "updates of this run are not sealed and not signed, which --require asks for"),
        (("signed",), "updates of this run are not sealed, which --require asks for"),
        (("signed", "sealed"), None),
    ],
)
def test_a_head_that_asks_for_less_protection_is_not_answered(protection: tuple[str, ...], said: str | None) -> None:
    assert objection(WorkerPolicy(require=frozenset({"signed", "sealed"})), protection=protection) == said


@pytest.mark.parametrize(("max_steps", "is_answered"), [(0, True), (9, False), (10, True)])
def test_a_head_that_asks_for_fewer_steps_is_not_answered(max_steps: int, is_answered: bool) -> None:
    said = objection(WorkerPolicy(min_steps=10), local=LocalTraining(max_steps=max_steps))
    assert (said is None) == is_answered


@pytest.mark.parametrize(("batch_size", "is_answered"), [(0, True), (1, False), (16, True)])
def test_a_head_that_asks_for_a_smaller_batch_is_not_answered(batch_size: int, is_answered: bool) -> None:
    said = objection(WorkerPolicy(min_batch=16), local=LocalTraining(batch_size=batch_size))
    assert (said is None) == is_answered


@pytest.mark.parametrize("allowed", [("body.*",), ("!head.*",), ("*weight",)])
def test_a_head_that_shares_a_tensor_that_is_to_stay_home_is_not_answered(allowed: tuple[str, ...]) -> None:
    said = objection(WorkerPolicy(allow_shared=allowed))
    assert said == "the run shares 'head.bias', which --allow-shared keeps at home"
    assert objection(WorkerPolicy(allow_shared=allowed), tensors=TENSORS[:1]) is None


def test_a_tied_tensor_stays_home_by_any_of_its_names() -> None:
    tied = {"decoder.weight": "body.weight"}
    policy = WorkerPolicy(allow_shared=("!decoder.*",))
    said = policy.objection_to(head(), trained=lambda: TRAINED, others=tied)
    assert said == "the run shares 'decoder.weight', which --allow-shared keeps at home"


def test_trainable_stands_for_the_parameters_that_are_trained() -> None:
    policy = WorkerPolicy(allow_shared=("trainable",))
    assert policy.objection_to(head(), trained=lambda: TRAINED) is None
    assert policy.objection_to(head(), trained=lambda: {"body.weight"}) is not None


@pytest.mark.parametrize(
    ("head", "said"),
    [
        ({}, "differential privacy (dp) and secure aggregation (secure)"),
        ({"masking": MASKING}, "differential privacy (dp)"),
        ({"privacy": PRIVACY}, "secure aggregation (secure)"),
        ({"masking": MASKING, "privacy": PRIVACY}, None),
    ],
)
def test_a_head_without_masks_or_noise_is_not_answered_where_they_are_required(
    head: dict[str, Any], said: str | None
) -> None:
    wanted = said and f"this run does without {said}, which --require asks for"
    assert objection(WorkerPolicy(require=frozenset({"secure", "dp"})), **head) == wanted


def test_what_is_masked_need_not_be_sealed_as_well() -> None:
    policy = WorkerPolicy(require=frozenset({"sealed"}))
    assert objection(policy) == "updates of this run are not sealed, which --require asks for"
    assert objection(policy, masking=MASKING) is None


@pytest.mark.parametrize(("min_sites", "is_answered"), [(0, True), (2, True), (3, True), (4, False)])
def test_a_head_that_opens_sums_of_fewer_sites_is_not_answered(min_sites: int, is_answered: bool) -> None:
    policy = WorkerPolicy(min_sites=min_sites)
    assert (objection(policy, masking=MASKING) is None) == is_answered
    assert (objection(policy) is None) == (min_sites == 0), "plain updates are seen one by one"


@pytest.mark.parametrize(
    ("named", "said"),
    [
        (("ethics",), "masks updates for ethics alone; --keeper asks for council, too"),
        (("ethics", "council", "union"), None),
        ((), "the run masks no updates; --keeper asks for council, ethics, too"),
    ],
)
def test_a_head_without_a_keeper_that_the_site_asks_for_is_not_answered(
    named: tuple[str, ...], said: str | None
) -> None:
    """One keeper of two that works together with the aggregator could otherwise be the only one."""
    head = {"masking": MASKING.model_copy(update={"keepers": named})} if named else {}
    found = objection(WorkerPolicy(keepers=frozenset({"ethics", "council"})), **head)
    assert found == said if said is None else found is not None and found.endswith(said)


@pytest.mark.parametrize(
    ("privacy", "said"),
    [
        (None, "this run does without differential privacy (dp), and --max-epsilon is 8"),
        ({}, None),
        ({"epsilon": 8.5}, "epsilon 8.5 at delta 1e-05; --max-epsilon is 8, and --max-delta 1e-05"),
        ({"epsilon": 1.0, "delta": 1e-3}, "epsilon 1 at delta 0.001; --max-epsilon is 8, and --max-delta 1e-05"),
    ],
)
def test_a_head_whose_budget_is_larger_than_the_site_s_own_is_not_answered(
    privacy: dict[str, float] | None, said: str | None
) -> None:
    head = {} if privacy is None else {"privacy": PRIVACY.model_copy(update=privacy)}
    found = objection(WorkerPolicy(max_epsilon=8.0), **head)
    assert found == said if said is None else found is not None and found.endswith(said)
