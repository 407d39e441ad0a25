"""A worker gives signs of life as often as it is set to, or less often where its aggregator asks for that."""

from typing import Any

import pytest
from test_worker_service import STATE, Site

from broker.states.tensors import digest_of
from broker.wire.codec import decode
from broker.wire.headers.participation import Draw
from broker.wire.messages import BlobRef, Presence

pytestmark = pytest.mark.timeout(30)


def answer(site: Site, number: int, **changes: Any) -> None:
    site.publish(number, **changes)
    assert site.worker.step()


def signs(site: Site) -> list[Presence]:
    return [decode(body, Presence)[0] for _, body in site.broker.queues["presence"]]


@pytest.mark.parametrize(
    ("own_s", "asked_s", "every_s", "spread_s"),
    [(10.0, None, 10.0, 0.0), (10.0, 30.0, 30.0, 3.0), (45.0, 30.0, 45.0, 0.0), (60.0, 60.0, 60.0, 0.0)],
)
def test_the_longer_interval_counts_and_its_signs_of_life_say_it(
    own_s: float, asked_s: float | None, every_s: float, spread_s: float
) -> None:
    site = Site(presence_every_s=own_s)
    answer(site, 1, presence_every_s=asked_s)
    assert site.worker.presence_every_s == (signs(site)[-1].every_s or 10.0) == every_s
    assert site.worker.presence_spread_s == pytest.approx(spread_s)


def test_it_is_as_often_again_once_nobody_asks_any_more() -> None:
    site = Site()
    answer(site, 1, presence_every_s=60.0)
    answer(site, 2)
    assert (site.worker.presence_every_s, site.worker.presence_spread_s) == (10.0, 0.0)
    assert signs(site)[-1].every_s is None


def test_who_may_be_chosen_says_that_it_is_there_as_long_as_nobody_is() -> None:
    site = Site()
    num_before = len(signs(site))
    blob = BlobRef(name="updates.blob.model.demo.1.1", part_bytes=8)
    for number, num_more in ((0, 1), (1, 1)):
        draw = Draw(number=number, threshold=0)
        site.publish(1, payload=b"", sha256=digest_of(STATE), blob=blob, draw=draw)
        while site.worker.step(0):
            pass
        assert len(signs(site)) == num_before + num_more
