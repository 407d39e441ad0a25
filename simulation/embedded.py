"""A simulation in one process: the same aggregator and worker code, one step each in turn, over the embedded broker."""

from aggregator.service import Aggregator
from worker.service import Worker


def run_embedded(aggregator: Aggregator, workers: list[Worker]) -> None:
    """Steps all of them until the run is finished or the aggregator was stopped."""
    for worker in workers:
        worker.start()
    aggregator.start()
    while aggregator.is_running:
        happened = [worker.step() for worker in workers]
        if not aggregator.step() and not any(happened):
            aggregator.step(aggregator.time_left())
    aggregator.finish()
    aggregator.close()
