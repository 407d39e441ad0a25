"""A simulation over the embedded broker: the same aggregator and worker code, in turns that do not depend on time.

A model goes to all workers, and they answer in turn, so the result is the same with any number of slots. The
aggregator takes each answer before the next: only one update waits for it, however many workers there are.
"""

from collections.abc import Callable, Sequence

from aggregator import Aggregator
from broker import MemoryBroker, MemoryTransport, Source
from simulation.slot import Parcel, Slot, parcels


def run_embedded(
    aggregator: Aggregator,
    broker: MemoryBroker,
    slots: Sequence[Slot],
    *,
    on_answer: Callable[[int], None] = lambda num_answered: None,
) -> None:
    """Runs until the run is finished or the aggregator, which is on ``broker``, is stopped. The caller closes it.

    Worker i has its turn in slot i modulo the number of slots. ``on_answer`` receives the number of workers that have
    answered a model so far.
    """
    post = MemoryTransport(broker)
    post.listen(Source.MODELS)
    aggregator.start()
    while aggregator.is_running:
        model = next(parcels(post), None)
        if model is None:
            aggregator.step(aggregator.time_left())
        else:
            _answer(model, aggregator, post, slots, on_answer)
    aggregator.finish()


def _answer(
    model: Parcel,
    aggregator: Aggregator,
    post: MemoryTransport,
    slots: Sequence[Slot],
    on_answer: Callable[[int], None],
) -> None:
    """Has all workers answer a model, as long as the run goes on. They receive a newer model only afterwards."""
    for slot in slots:
        slot.offer(model)
    for index in range(sum(slot.num_workers for slot in slots)):
        for parcel in slots[index % len(slots)].answer():
            parcel.deliver(post)
        on_answer(index + 1)
        while aggregator.is_running and aggregator.step():
            pass
        if not aggregator.is_running:
            return
