"""One process that moves bytes with pika and does nothing else; raw_pika.py starts it.

There is no training, no check, no sum, no file; a message is nothing but its bytes. Prints one number a line:

publish     seconds of each publishing of all bytes onto a new stream
consume     seconds of each reading of all bytes from these streams
aggregator  the Unix time at which each round begins: it publishes the model, then reads all that the workers write
worker      nothing; each round, it reads the model, then writes as many bytes onto its own stream
"""

import argparse
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pika
from pika.adapters.blocking_connection import BlockingChannel
from pika.adapters.utils import io_services_utils

PART_BYTES = 8 * 2**20
RELEASED_BYTES, RAISED_BYTES = 4096, 128 * 2**10
MODELS = "raw.models"
_PREFETCH = 3


def updates_of(index: int) -> str:
    """The stream that this worker writes."""
    return f"raw.updates.{index}"


def stream_arguments(num_bytes: int) -> dict[str, Any]:
    """The arguments of a stream that always holds the newest two bodies of this size, and not many more."""
    return {
        "x-queue-type": "stream",
        "x-stream-max-segment-size-bytes": 4 * PART_BYTES,
        "x-max-length-bytes": 3 * num_bytes + 8 * PART_BYTES,
    }


def set_receive_size(num_bytes: int) -> None:
    """Sets how much pika reads from its socket at a time; as released, 4 KiB."""
    io_services_utils._AsyncTransportBase._MAX_RECV_BYTES = num_bytes


class Writer:
    """Publishes bodies in parts of 8 MiB, and waits for the broker to confirm each part."""

    def __init__(self, connection: pika.BlockingConnection, num_bytes: int) -> None:
        self._channel = connection.channel()
        self._channel.confirm_delivery()
        self._num_bytes = num_bytes
        self._part = bytes(PART_BYTES)
        self._properties = pika.BasicProperties(delivery_mode=pika.DeliveryMode.Persistent)

    def declare(self, name: str) -> None:
        self._channel.queue_declare(name, durable=True, arguments=stream_arguments(self._num_bytes))

    def publish(self, name: str) -> None:
        full, rest = divmod(self._num_bytes, PART_BYTES)
        for part in [self._part] * full + ([bytes(rest)] if rest else []):
            self._channel.basic_publish("", name, part, self._properties, mandatory=True)


class Reader:
    """Counts the bytes that come from some streams, and keeps none of them."""

    def __init__(self, connection: pika.BlockingConnection, names: Sequence[str]) -> None:
        self._connection = connection
        self._num_bytes = 0
        channel = connection.channel()
        channel.basic_qos(prefetch_count=_PREFETCH)
        for name in names:
            channel.basic_consume(name, self._count, arguments={"x-stream-offset": "first"})

    def _count(self, channel: BlockingChannel, method: Any, properties: Any, body: bytes) -> None:
        channel.basic_ack(method.delivery_tag)
        self._num_bytes += len(body)

    def wait_for(self, num_bytes: int) -> None:
        """Returns once ``num_bytes`` more bytes have arrived since it last returned."""
        while self._num_bytes < num_bytes:
            self._connection.process_data_events(None)
        self._num_bytes -= num_bytes


def _say(number: float) -> None:
    print(number, flush=True)


def _publish(given: argparse.Namespace) -> None:
    with _connection(given) as connection:
        writer = Writer(connection, given.bytes)
        for index in range(given.rounds):
            writer.declare(updates_of(index))
            begun_at = time.perf_counter()
            writer.publish(updates_of(index))
            _say(time.perf_counter() - begun_at)


def _consume(given: argparse.Namespace) -> None:
    for index in range(given.rounds):
        with _connection(given) as connection:
            begun_at = time.perf_counter()
            Reader(connection, [updates_of(index)]).wait_for(given.bytes)
            _say(time.perf_counter() - begun_at)


def _aggregator(given: argparse.Namespace) -> None:
    with _connection(given) as writing, _connection(given) as reading:
        writer = Writer(writing, given.bytes)
        reader = Reader(reading, [updates_of(index) for index in range(given.workers)])
        for _ in range(given.rounds):
            _say(time.time())
            writer.publish(MODELS)
            reader.wait_for(given.workers * given.bytes)


def _worker(given: argparse.Namespace) -> None:
    with _connection(given) as writing, _connection(given) as reading:
        writer, reader = Writer(writing, given.bytes), Reader(reading, [MODELS])
        for _ in range(given.rounds):
            reader.wait_for(given.bytes)
            writer.publish(updates_of(given.index))


def _connection(given: argparse.Namespace) -> pika.BlockingConnection:
    return pika.BlockingConnection(pika.URLParameters(given.url))


_ROLES: Mapping[str, Callable[[argparse.Namespace], None]] = {
    "publish": _publish,
    "consume": _consume,
    "aggregator": _aggregator,
    "worker": _worker,
}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("role", choices=_ROLES)
    parser.add_argument("--url", required=True)
    parser.add_argument("--bytes", type=int, required=True)
    parser.add_argument("--rounds", type=int, required=True)
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--index", type=int, default=0)
    parser.add_argument("--receive-bytes", type=int, default=RELEASED_BYTES)
    given = parser.parse_args()
    set_receive_size(given.receive_bytes)
    _ROLES[given.role](given)


if __name__ == "__main__":
    main()
