"""Many readers of one stream: over AMQP 0-9-1, as fedmq reads, and over RabbitMQ's own stream protocol.

pip install rstream; PYTHONPATH=tests:. python -m benchmarks.stream_readers 100 200

Each reader takes eight parts of 250 KB. Readers share four processes; those of AMQP have a thread each, with fedmq's
receive size, those of the stream protocol an asyncio task each. The broker's CPU is per GB that it sent.
"""

import argparse
import asyncio
import importlib
import multiprocessing
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from multiprocessing.queues import Queue
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

import pika
import psutil
from rabbitmq_node import RabbitNode, free_port

from benchmarks.place import MANY_CONNECTIONS

_STREAM, _NUM_PARTS, _PART_BYTES = "parts", 8, 250_000
_NUM_PROCESSES = 4
_RECEIVE_BYTES = {"_MAX_RECV_BYTES": 2**17, "_MAX_CONSUME_BYTES": 2**19}
_LIMIT_S = 120.0


def _over_amqp(url: str, num_readers: int, is_ready: "Queue[int]", go: Event, taken: "Queue[float]") -> None:
    connections = [pika.BlockingConnection(pika.URLParameters(url)) for _ in range(num_readers)]
    for connection in connections:
        vars(connection._impl._transport).update(_RECEIVE_BYTES)
    threads = [threading.Thread(target=_read, args=(connection,)) for connection in connections]
    is_ready.put(1)
    go.wait()
    begun_s = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    taken.put(time.perf_counter() - begun_s)


def _read(connection: pika.BlockingConnection) -> None:
    channel, parts = connection.channel(), []

    def on_part(channel: Any, method: Any, properties: Any, body: bytes) -> None:
        channel.basic_ack(method.delivery_tag)
        parts.append(len(body))

    channel.basic_qos(prefetch_count=2)
    channel.basic_consume(_STREAM, on_part, arguments={"x-stream-offset": "first"})
    while len(parts) < _NUM_PARTS:
        connection.process_data_events(time_limit=1)


def _over_streams(port: int, num_readers: int, is_ready: "Queue[int]", go: Event, taken: "Queue[float]") -> None:
    taken.put(asyncio.run(_read_streams(port, num_readers, is_ready, go)))


async def _read_streams(port: int, num_readers: int, is_ready: "Queue[int]", go: Event) -> float:
    rstream = importlib.import_module("rstream")
    offset = rstream.ConsumerOffsetSpecification(rstream.OffsetType.FIRST, None)
    login = {"host": "127.0.0.1", "port": port, "username": "guest", "password": "guest", "vhost": "/"}
    consumers = [rstream.Consumer(**login) for _ in range(num_readers)]
    num_left, is_over = num_readers * _NUM_PARTS, asyncio.Event()

    async def on_part(part: bytes, context: Any) -> None:
        nonlocal num_left
        num_left -= 1
        if not num_left:
            is_over.set()

    for consumer in consumers:
        await consumer.start()
    is_ready.put(1)
    await asyncio.to_thread(go.wait)
    begun_s = time.perf_counter()
    readings = [each.subscribe(_STREAM, on_part, decoder=bytes, offset_specification=offset) for each in consumers]
    await asyncio.gather(*readings)
    await asyncio.wait_for(is_over.wait(), _LIMIT_S)
    return time.perf_counter() - begun_s


def _measured(node: RabbitNode, reads: Callable[..., None], where: str | int, num_readers: int) -> str:
    context = multiprocessing.get_context("spawn")
    is_ready, taken, go = context.Queue(), context.Queue(), context.Event()
    each = num_readers // _NUM_PROCESSES
    processes = [
        context.Process(target=reads, args=(where, each, is_ready, go, taken), daemon=True)
        for _ in range(_NUM_PROCESSES)
    ]
    for process in processes:
        process.start()
    for _ in processes:
        is_ready.get(timeout=_LIMIT_S)
    broker = psutil.Process(node.pid)
    before = broker.cpu_times()
    go.set()
    last_s = max(taken.get(timeout=2 * _LIMIT_S) for _ in processes)
    after = broker.cpu_times()
    for process in processes:
        process.join()
    cpu_s = after.user + after.system - before.user - before.system
    num_gb = each * _NUM_PROCESSES * _NUM_PARTS * _PART_BYTES / 1e9
    return f"last reader after {last_s:.2f} s, broker {cpu_s / num_gb:.2f} CPU s a GB"


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.stream_readers", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("num_readers", type=int, nargs="*", default=[100, 200])
    given = parser.parse_args(argv)
    port = free_port()
    listener = f"stream.listeners.tcp.1 = 127.0.0.1:{port}\nstream.advertised_host = 127.0.0.1\n"
    config = f"{MANY_CONNECTIONS}{listener}stream.advertised_port = {port}\n"
    plugins = ("rabbitmq_stream",)
    with (
        tempfile.TemporaryDirectory() as folder,
        RabbitNode(Path(folder), extra_config=config, plugins=plugins) as node,
    ):
        connection = pika.BlockingConnection(pika.URLParameters(node.url))
        channel = connection.channel()
        channel.confirm_delivery()
        channel.queue_declare(_STREAM, durable=True, arguments={"x-queue-type": "stream"})
        for _ in range(_NUM_PARTS):
            channel.basic_publish("", _STREAM, bytes(_PART_BYTES))
        connection.close()
        for number in given.num_readers:
            print(f"{number} readers, AMQP 0-9-1:      {_measured(node, _over_amqp, node.url, number)}", flush=True)
            print(f"{number} readers, stream protocol: {_measured(node, _over_streams, port, number)}", flush=True)


if __name__ == "__main__":
    main()
