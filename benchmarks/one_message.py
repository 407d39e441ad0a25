"""What one sign of life and one update of 40 KB cost the aggregator, over the embedded broker.

PYTHONPATH=tests:. python -m benchmarks.one_message
"""

import argparse
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

import torch

from aggregator.service import Aggregator
from aggregator.settings import AggregatorSettings
from broker.memory import MemoryBroker, MemoryTransport
from broker.states.tensors import chunks, digest_of
from broker.wire.codec import decode, encode
from broker.wire.messages import ModelHead, Presence, UpdateHead
from learning import Site, load_task

_TASK, _AT_ONCE = "digits", 5000
_INSTANCE = "0123456789abcdef"


@contextmanager
def _aggregating(quorum: int) -> Iterator[tuple[Aggregator, MemoryTransport, MemoryBroker]]:
    broker = MemoryBroker()
    with tempfile.TemporaryDirectory() as folder:
        settings = AggregatorSettings(task=_TASK, rounds=2, quorum=str(quorum), state=Path(folder))
        task = load_task(_TASK, Site(partition="iid"))
        with closing(Aggregator(settings.config, task, MemoryTransport(broker))) as aggregator:
            aggregator.start()
            yield aggregator, MemoryTransport(broker), broker


def _taken_s(aggregator: Aggregator, broker: MemoryBroker) -> float:
    """CPU seconds until the aggregator has taken all that waits."""
    begun = time.process_time()
    while any(broker.queues.values()):
        aggregator.step(60.0)
    return time.process_time() - begun


def sign_s(num_workers: int) -> float:
    """CPU seconds of a sign of life of a worker that was there before, among so many."""
    signs = [
        (f"w-{index}", encode(Presence(worker=f"w-{index}", instance=_INSTANCE, state="idle")))
        for index in range(num_workers)
    ]
    with _aggregating(1) as (aggregator, site, broker):
        for _ in range(2):
            taken_s = 0.0
            for first in range(0, num_workers, _AT_ONCE):
                for worker, sign in signs[first : first + _AT_ONCE]:
                    site.announce(sign, worker=worker)
                taken_s += _taken_s(aggregator, broker)
    return taken_s / num_workers


def update_s(num_workers: int) -> float:
    """CPU seconds of one of so many updates, the commits included, and not the close of the round."""
    with _aggregating(num_workers + 1) as (aggregator, site, broker):
        head = decode(broker.heads[-1], ModelHead)[0]
        delta = {spec.name: torch.randn(spec.shape) for spec in head.tensors}
        body, digest = b"".join(chunks(delta, head.tensors)), digest_of(delta)
        for index in range(num_workers):
            update = UpdateHead(
                tensors=head.tensors,
                sha256=digest,
                run_id=head.run_id,
                worker=f"w-{index}",
                instance=_INSTANCE,
                round=head.round,
                num_samples=1,
                train_s=0.1,
                sent_at=time.time(),
            )
            site.send(encode(update, body), worker=update.worker)
        return _taken_s(aggregator, broker) / num_workers


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.one_message", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--workers", type=int, default=1000)
    given = parser.parse_args(argv)
    print(f"a sign of life {1e3 * sign_s(given.workers):.3f} ms, an update {1e3 * update_s(given.workers):.2f} ms")


if __name__ == "__main__":
    main()
