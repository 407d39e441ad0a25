"""A worker that is not chosen for a round reads no model, sends nothing, and goes on with the next."""

import logging
from typing import Any

import pytest
from test_worker_service import STATE, Site

from broker.states.tensors import State, chunks, digest_of, specs_of
from broker.wire.buffers import cut
from broker.wire.codec import decode
from broker.wire.headers.participation import PLACES, Draw, place_of
from broker.wire.messages import BlobRef, ModelHead, UpdateHead
from console import malloc
from worker.events import ModelReceived, NotChosen

pytestmark = pytest.mark.timeout(30)

EVERYBODY, NOBODY = PLACES - 1, 0


def offer(site: Site, number: int, draw: Draw, *, state: State = STATE, has_blob: bool = True, **changes: Any) -> None:
    name = f"updates.blob.model.demo.1.{number}"
    if has_blob:
        site.aggregator.write_blob(name, cut(chunks(state, specs_of(state)), 8))
    blob = BlobRef(name=name, part_bytes=8)
    site.publish(number, state=state, payload=b"", sha256=digest_of(state), blob=blob, draw=draw, **changes)
    while site.worker.step(0):
        pass


def sent(site: Site) -> list[int]:
    return [decode(body, UpdateHead)[0].round for _, body in site.broker.queues["updates"]]


def test_who_is_not_chosen_reads_no_blob_and_sends_nothing(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    site = Site()
    num_signs = len(site.broker.queues["presence"])
    offer(site, 1, Draw(number=1, threshold=NOBODY), has_blob=False)
    assert sent(site) == []
    assert not site.task.plans
    assert len(site.broker.queues["presence"]) == num_signs
    assert (site.worker.presence.state, site.worker.presence.round) == ("idle", 1)
    assert [type(event) for event in site.events if isinstance(event, NotChosen | ModelReceived)] == [NotChosen]
    assert [record.getMessage() for record in caplog.records].count("round   1: others are chosen; waiting") == 1


def test_who_was_not_chosen_takes_part_in_the_next_round_and_in_the_next_draw() -> None:
    site = Site()
    offer(site, 1, Draw(number=1, threshold=NOBODY))
    offer(site, 1, Draw(number=2, threshold=EVERYBODY))
    offer(site, 2, Draw(number=1, threshold=EVERYBODY))
    assert sent(site) == [1, 2]


def test_it_takes_part_if_its_place_is_below_the_threshold_and_not_if_it_is_that() -> None:
    place = place_of("site-a", seed=3, round_number=1)
    for threshold, rounds in ((place, []), (place + 1, [1])):
        site = Site()
        offer(site, 1, Draw(number=1, threshold=threshold))
        assert sent(site) == rounds


def test_who_has_answered_does_not_train_again_for_another_draw_of_the_round() -> None:
    site = Site()
    offer(site, 1, Draw(number=1, threshold=EVERYBODY))
    offer(site, 1, Draw(number=2, threshold=EVERYBODY))
    assert sent(site) == [1]
    assert len(site.task.plans) == 1


def test_a_draw_of_nobody_says_that_another_one_follows(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    site = Site()
    offer(site, 1, Draw(number=0, threshold=NOBODY))
    assert "round   1: nobody is chosen yet; waiting" in [record.getMessage() for record in caplog.records]


def test_the_final_model_is_for_everybody() -> None:
    head = ModelHead.model_validate(
        {"tensors": specs_of(STATE), "sha256": digest_of(STATE), "run": "demo", "run_id": "demo.1", "epoch": 1}
        | {"round": 2, "num_rounds": 1, "seed": 3, "is_finished": True}
    )
    assert head.chooses("site-a")


@pytest.mark.parametrize(("inline_cap", "times"), [(2**20, 0), (8, 1)])
def test_memory_is_given_back_for_models_that_fit_no_message_and_not_for_small_ones_in_a_blob(
    monkeypatch: pytest.MonkeyPatch, inline_cap: int, times: int
) -> None:
    given_back: list[None] = []
    monkeypatch.setattr(malloc, "give_back", lambda: given_back.append(None))
    site = Site()
    offer(site, 1, Draw(number=1, threshold=EVERYBODY), inline_cap=inline_cap)

    assert (sent(site), len(given_back)) == ([1], times)
