"""A simulation over the embedded broker: the same aggregator and worker code, in turns that do not depend on time.

A model goes to all workers, and they answer in turn, so the result is the same with any number of slots. The
aggregator takes each answer before the next: only one update waits for it, however many workers there are.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace

from aggregator import Aggregator, AggregatorConfig, AggregatorSettings, Quorum
from broker import MemoryBroker, MemoryTransport, Source
from console import SettingsError, TaskError, some_of
from keeper import Keeper
from simulation.slot import Parcel, Slot, parcels

log = logging.getLogger(__name__)


def with_samples(slots: Sequence[Slot], names: Sequence[str]) -> list[str]:
    """Those of the workers that can answer. TaskError if there is none."""
    empty = {name for slot in slots for name in slot.without_samples}
    able = [name for name in names if name not in empty]
    if not able:
        raise TaskError("no site has training samples")
    if empty:
        named = [name for name in names if name in empty]
        log.warning("left out, for want of training samples: %s", some_of(named, 5))
    return able


def config_for(workers: Sequence[str], settings: AggregatorSettings) -> AggregatorConfig:
    """What an aggregator is to do for these workers, which are all always there; its quorum is a count of them.

    Where only some take part in a round, how many that are differs, and a share stays one: of those that do. A
    SettingsError if there are too few for a robust rule or for ``min_updates``.
    """
    fewest = settings.robust.fewest
    if len(workers) < fewest:
        raise SettingsError(
            f"--robust {settings.robust} holds from {fewest} updates a round on, and {len(workers)} workers have"
            f" samples to train with: give at least {fewest}, or a rule for fewer"
        )
    if len(workers) < settings.fewest_updates:
        raise SettingsError(
            f"--min-updates {settings.fewest_updates} is out of reach: {len(workers)} workers have samples to train"
            " with; give so many or fewer"
        )
    quorum = settings.quorum
    if not settings.is_sampled or quorum.count is not None:
        quorum = Quorum(count=min(len(workers), quorum.counted(len(workers)).count or 1))
    config = settings.model_copy(update={"quorum": quorum}).config
    return replace(config, everybody=tuple(workers))


def run_embedded(
    aggregator: Aggregator,
    broker: MemoryBroker,
    slots: Sequence[Slot],
    *,
    keepers: Sequence[Keeper] = (),
    on_answer: Callable[[int], None] = lambda num_answered: None,
) -> None:
    """Runs until the run is finished or the aggregator, which is on ``broker``, is stopped. The caller closes it.

    Worker i has its turn in slot i modulo the number of slots. Keepers have theirs whenever they are asked something.
    ``on_answer`` receives the number of workers that have answered a model so far.
    """
    post = MemoryTransport(broker)
    post.listen(Source.MODELS)
    aggregator.start()
    for keeper in keepers:
        keeper.start()
    while aggregator.is_running:
        model = next(parcels(post), None)
        if model is not None:
            _answer(model, aggregator, post, slots, keepers, on_answer)
        elif not _have_turns(keepers):
            aggregator.step(aggregator.time_left())
    aggregator.finish()


def _have_turns(keepers: Sequence[Keeper]) -> bool:
    """Whether a keeper had something to do; then it has done it."""
    return sum(keeper.step() for keeper in keepers) > 0


def _answer(
    model: Parcel,
    aggregator: Aggregator,
    post: MemoryTransport,
    slots: Sequence[Slot],
    keepers: Sequence[Keeper],
    on_answer: Callable[[int], None],
) -> None:
    """Has all workers answer a model, as long as the run goes on. They receive a newer model only afterwards."""
    for slot in slots:
        slot.offer(model)
    for index in range(sum(slot.num_workers for slot in slots)):
        answer = slots[index % len(slots)].answer()
        for parcel in answer:
            parcel.deliver(post)
        on_answer(index + 1)
        while answer and aggregator.is_running and (aggregator.step() or _have_turns(keepers)):
            pass
        if not aggregator.is_running:
            return
