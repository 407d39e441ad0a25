"""One process of a bare durable round, in as few lines as possible; raw_pika.py starts it beside a round of fedmq.

The model goes onto a stream, each update onto a quorum queue, all confirmed. The updates' mean is written with fsync,
then SQLite commits (``synchronous=full``), then the updates are acked. Nothing is checked, nor is a kill provided for.

aggregator  prints the Unix time at which each round begins
worker      sends what it received back as its update
"""

import argparse
import os
import sqlite3
import time
from pathlib import Path
from typing import Any

import numpy as np
import pika
from pika.adapters.blocking_connection import BlockingChannel

_MODELS, _UPDATES = "bare.models", "bare.updates"
QUEUES = {_MODELS: {"x-queue-type": "stream"}, _UPDATES: {"x-queue-type": "quorum"}}
"""Name -> arguments of the queues, which must exist, durable, before a process starts."""
_PREFETCH = 16


class Inbox:
    """The messages of one queue, in order."""

    def __init__(self, connection: pika.BlockingConnection, name: str, arguments: dict[str, Any] | None = None) -> None:
        self._connection = connection
        self._channel = connection.channel()
        self._arrived: list[tuple[int, bytes]] = []
        self._channel.basic_qos(prefetch_count=_PREFETCH)
        self._channel.basic_consume(name, self._keep, arguments=arguments)

    def _keep(self, channel: BlockingChannel, method: Any, properties: Any, body: bytes) -> None:
        self._arrived.append((method.delivery_tag, body))

    def take(self, num: int) -> list[tuple[int, bytes]]:
        """(tag, body) of the next ``num`` messages, once they are there."""
        while len(self._arrived) < num:
            self._connection.process_data_events(None)
        taken, self._arrived = self._arrived[:num], self._arrived[num:]
        return taken

    def ack(self, tag: int) -> None:
        """Acks all messages up to this one."""
        self._channel.basic_ack(tag, multiple=True)


def _aggregator(given: argparse.Namespace) -> None:
    ledger = sqlite3.connect(given.folder / "bare.sqlite", isolation_level=None)
    ledger.executescript("PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; CREATE TABLE rounds (number INTEGER)")
    model = np.zeros(given.bytes // 4, np.float32)
    with _connection(given) as writing, _connection(given) as reading:
        publisher = _publisher(writing)
        inbox = Inbox(reading, _UPDATES)
        for number in range(given.rounds):
            print(time.time(), flush=True)
            _publish(publisher, _MODELS, model.tobytes())
            updates = inbox.take(given.workers)
            model[:] = np.mean([np.frombuffer(body, np.float32) for _, body in updates], axis=0)
            _write(given.folder / "bare.model", model.tobytes())
            ledger.execute("INSERT INTO rounds VALUES (?)", (number,))
            inbox.ack(updates[-1][0])


def _worker(given: argparse.Namespace) -> None:
    with _connection(given) as writing, _connection(given) as reading:
        publisher, inbox = _publisher(writing), Inbox(reading, _MODELS, {"x-stream-offset": "first"})
        for _ in range(given.rounds):
            ((tag, body),) = inbox.take(1)
            inbox.ack(tag)
            _publish(publisher, _UPDATES, body)


def _write(path: Path, content: bytes) -> None:
    """Replaces the file once the content is on the disk."""
    new = path.with_suffix(".tmp")
    with new.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    new.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    os.fsync(folder)
    os.close(folder)


def _connection(given: argparse.Namespace) -> pika.BlockingConnection:
    return pika.BlockingConnection(pika.URLParameters(given.url))


def _publisher(connection: pika.BlockingConnection) -> BlockingChannel:
    channel = connection.channel()
    channel.confirm_delivery()
    return channel


def _publish(channel: BlockingChannel, name: str, body: bytes) -> None:
    properties = pika.BasicProperties(delivery_mode=pika.DeliveryMode.Persistent)
    channel.basic_publish("", name, body, properties, mandatory=True)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("role", choices=("aggregator", "worker"))
    parser.add_argument("--url", required=True)
    parser.add_argument("--folder", type=Path, required=True)
    for name in ("--bytes", "--rounds", "--workers"):
        parser.add_argument(name, type=int, required=True)
    given = parser.parse_args()
    (_aggregator if given.role == "aggregator" else _worker)(given)


if __name__ == "__main__":
    main()
