"""One process becomes a worker: everything that a ``Worker`` stands on, made from its settings and closed again."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

from broker import connect
from broker.wire import Topology
from console import Heartbeat, LinkChanged, fan_out
from console.serving import Health, served
from identities import membership
from learning import Task
from learning.devices import deterministic
from worker.config import WorkerConfig
from worker.events import StateChanged, Watcher
from worker.name import name_of_machine
from worker.service import Worker
from worker.settings import WorkerSettings
from worker.state import OnDisk, OwnNoise, OwnResults, Positions
from worker.watchers import WorkerMetrics

_GRACE_S = 15.0
"""An aggregator that is started in the same second has its model out by then."""


@contextlib.contextmanager
def named(settings: WorkerSettings) -> Iterator[str]:
    """The worker's name: its own, or the machine's, which no other worker on this machine gets meanwhile."""
    if settings.own_name is not None:
        yield settings.own_name
        return
    name, lock = name_of_machine(settings.name_prefix)
    with lock:
        yield name


@contextlib.contextmanager
def joined(
    settings: WorkerSettings,
    name: str,
    *,
    task: Callable[[], Task],
    devices: Callable[[], tuple[str, ...]],
    on_event: Watcher,
    on_link: Callable[[LinkChanged], None],
    on_signals: Callable[[Callable[[], None]], None],
) -> Iterator[Worker]:
    """A worker that has joined and sends signs of life; the caller runs it.

    ``task`` and ``devices`` are asked for once the state directory is found to be usable. ``on_signals`` is given what
    is to be called when this process is told to end.
    """
    with contextlib.ExitStack() as stack:
        carried = OnDisk(settings.state, name) if settings.state else None
        if carried is not None:
            carried.check()
        made = task()
        stack.enter_context(deterministic(is_wanted=settings.deterministic))
        on_devices = devices()
        health = Health(hung_after_s=settings.hung_after_s)
        transport = connect(settings, role=f"worker {name}", on_link=fan_out(on_link, health.on_link))
        stack.callback(transport.close)
        metrics = WorkerMetrics(lambda: worker.presence)
        counting = [] if settings.metrics_port is None else [metrics.on_event]  # else nobody would see the counts
        heartbeat = Heartbeat(
            lambda: worker.announce(),
            every_s=lambda: worker.presence_every_s,
            spread_s=lambda: worker.presence_spread_s,
        )
        config = WorkerConfig(
            name=name,
            topology=Topology(settings.queue),
            inline_cap=settings.inline_cap,
            run=settings.run,
            stays=settings.stay,
            grace_s=_GRACE_S,
            save_model=settings.save_model,
            devices=on_devices,
            presence_every_s=settings.presence_every_s,
            membership=membership(settings, "worker", name),
            policy=settings.policy,
        )
        worker = Worker(
            config,
            made,
            transport,
            carried=carried,
            results=OwnResults(settings.state, name) if settings.state and settings.keep_results else None,
            positions=Positions(_newest_model(settings, name)),
            noise=OwnNoise(settings.state, name) if settings.state else None,
            on_event=fan_out(on_event, *counting, health.watcher({StateChanged: "connected"})),
            announce_soon=heartbeat.soon,
            beat=health.beat,
        )
        stack.enter_context(served(metrics.registry, settings, health))
        on_signals(worker.stop)
        worker.start()
        stack.enter_context(heartbeat)
        yield worker


def _newest_model(settings: WorkerSettings, name: str) -> Path | None:
    """Where the newest model seen is noted; of each queue by itself, for runs on two of them go on side by side."""
    return settings.state / name / f"newest-model-{settings.queue}.json" if settings.state else None
