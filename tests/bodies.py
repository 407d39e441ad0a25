"""What tests ask of a body: all of it at once, from wherever it is."""

from collections.abc import Iterator
from contextlib import contextmanager

from aggregator.bodies.body import Body, InFile
from aggregator.rounds.open_round import Contribution
from broker.transport import Transport
from broker.wire.messages import MAX_PART_BYTES

ANY_PART_BYTES = range(MAX_PART_BYTES + 1)
"""For ``Expected``: updates may have parts of any size."""


@contextmanager
def body_of(message: Contribution, transport: Transport) -> Iterator[Body]:
    """The body of a message as an aggregator has it: stored if it is in a blob."""
    head = message.head
    if head.blob is None:
        yield message.in_message
        return
    body = InFile(head, is_zstd=message.is_zstd, folder=None)
    try:
        for part in transport.read_blob(head.blob.name, head.blob.num_parts(head.num_bytes)):
            body.add(part)
        yield body
    finally:
        body.close()
