"""A simulation from Python, as in a notebook: ``history = simulate("digits", workers=8, rounds=20)``."""

from collections.abc import Callable
from contextlib import ExitStack, closing
from functools import partial
from typing import Any

import torch
from pydantic import ValidationError

from aggregator import Aggregator
from aggregator.events import Watcher, unwatched
from aggregator.history import History, write_report
from broker import MemoryBroker, MemoryTransport
from broker.wire import Topology
from console import SettingsError, explained
from learning import Site, Task, at_site, load_task
from learning.devices import deterministic
from simulation.embedded import config_for, run_embedded, with_samples
from simulation.secrecy import Secrecy, opened_keepers
from simulation.settings import SimulationSettings
from simulation.slot import LocalSlot

_OF_THE_COMMAND = ("broker", "over_rabbitmq", "jobs", "baselines", "script", "many")


def simulate(task: str | Task | Callable[[Site], Task], *, on_event: Watcher = unwatched, **settings: Any) -> History:
    """Runs a federation in this process, over the embedded broker, and returns its history.

    ``task`` is what ``--task`` names, or the object itself: a Task, or a class or function that takes the Site.
    ``settings`` are those of ``fl-simulate`` with underscores (``workers=8, partition="dirichlet:0.5"``); the same
    settings give the same bits. ``state`` names the directory; a run already in it is resumed. ``on_event`` receives
    each event of the aggregator. ``sites`` may be a mapping of names to arguments. Raises a SettingsError or a
    TaskError that says what is wrong.
    """
    given = _settings(settings | {"task": task if isinstance(task, str) else _name_of(task)})
    task_at = partial(load_task, task) if isinstance(task, str) else partial(at_site, task, reference=given.task)
    return simulated(given, task_at, on_event=on_event)


def simulated(
    given: SimulationSettings,
    task_at: Callable[..., Task],
    *,
    on_event: Watcher = unwatched,
    judge_of: Callable[[Task], Task] = lambda task: task,
) -> History:
    """The same with checked settings; ``task_at`` makes the task of a site, ``judge_of`` the aggregator's of that."""
    own = given.of_aggregator()
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)  # the number of threads changes the last bits
    try:
        broker = MemoryBroker()
        judge = judge_of(task_at(site=Site(partition=given.partition, args=given.task_args)))
        sites = given.simulated_sites
        secrecy = Secrecy.of(own, sites.names)
        slot = LocalSlot(
            {
                name: task_at(site=sites.site(index, given.partition, given.task_args), own=True)
                for index, name in enumerate(sites.names)
            },
            topology=Topology(own.queue),
            inline_cap=given.inline_cap,
            state=own.state / "workers",
            secrecy=secrecy,
        )
        config = config_for(with_samples([slot], sites.names), own)
        config = config if secrecy is None else secrecy.led(config)
        with ExitStack() as stack:
            stack.enter_context(deterministic(is_wanted=given.deterministic))
            keepers = opened_keepers(secrecy, own, broker, stack)
            made = Aggregator(config, judge, MemoryTransport(broker), on_event=on_event)
            run_embedded(stack.enter_context(closing(made)), broker, [slot], keepers=keepers)
    finally:
        torch.set_num_threads(num_threads)
    write_report(own.state)
    return History(own.state)


def _settings(given: dict[str, Any]) -> SimulationSettings:
    foreign = [name for name in _OF_THE_COMMAND if name in given]
    if foreign:
        raise SettingsError(f"simulate() runs in this process; {', '.join(foreign)} is for the command fl-simulate")
    try:
        return SimulationSettings(**given)
    except ValidationError as error:
        raise SettingsError(explained(error, "fl-simulate")) from error


def _name_of(task: object) -> str:
    return getattr(task, "__name__", type(task).__name__)
