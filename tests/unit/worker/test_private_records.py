"""DP-SGD in a task: what a site's records have given away is counted on over rounds and restarts of its worker."""

import importlib.util
import os
from pathlib import Path

import pytest
from test_worker_service import CONFIG, Site
from torch import nn

from broker import Source
from broker.memory import MemoryTransport
from broker.states import State
from broker.wire import LocalTraining, UpdateHead, decode
from console import Arguments
from learning.task import Site as TaskSite
from worker.service import Worker
from worker.state import OnDisk

pytestmark = [
    pytest.mark.skipif(
        importlib.util.find_spec("opacus") is None and "FEDMQ_REQUIRE_BROKER" not in os.environ,
        reason="opacus is in the extra `dp`",
    ),
    pytest.mark.filterwarnings("default"),  # Opacus's own
    pytest.mark.timeout(120),
]
MODEL: State = nn.Linear(8, 2).state_dict()
LOCAL = LocalTraining(batch_size=64, epochs=1, lr=0.1)


def worker_of(site: Site, state: Path | None, **args: str) -> Worker:
    """A worker as a process that was started again: its task and its accountant are new."""
    from examples.private_records import PrivateRecords

    task = PrivateRecords(TaskSite(name="site-a", index=0, num_sites=1, args=Arguments(args)))
    carried = OnDisk(state, "site-a") if state else None
    worker = Worker(CONFIG, task, MemoryTransport(site.broker), carried=carried)
    worker.start()
    worker.step()
    return worker


def trained(site: Site, number: int, state: Path | None, **args: str) -> float:
    """The epsilon that the site reports with its update of a round, made by a worker that was just started."""
    site.publish(number, state=MODEL, local=LOCAL)
    worker_of(site, state, **args).step()
    return site.updates()[-1].train_metrics["epsilon"]


def test_epsilon_goes_on_where_it_was_before_a_restart(tmp_path: Path) -> None:
    from opacus.accountants import RDPAccountant

    site = Site()
    found = [trained(site, number, tmp_path) for number in (1, 2)]
    for number, epsilon in enumerate(found, start=1):
        plain = RDPAccountant()
        plain.history = [(1.0, 0.25, 4 * number)]
        assert epsilon == pytest.approx(plain.get_epsilon(1e-4), rel=1e-12)
    assert found[1] > found[0] > 0


def test_a_site_whose_budget_is_spent_gives_nothing_more(tmp_path: Path) -> None:
    site = Site()
    first = trained(site, 1, tmp_path)
    assert trained(site, 2, tmp_path, epsilon=str(first)) == first
    assert trained(site, 3, tmp_path, epsilon="100") > first


def test_the_noise_cannot_be_drawn_again_from_the_seed_that_everybody_knows() -> None:
    def bodies() -> list[bytes]:
        site = Site()
        trained(site, 1, None)
        return [body for _, body in site.broker.queues[Source.UPDATES]]

    assert sent_by(bodies()) != sent_by(bodies())


def sent_by(bodies: list[bytes]) -> list[bytes]:
    """The deltas, without the headers around them."""
    return [bytes(decode(body, UpdateHead)[1]) for body in bodies]
