"""How soon a standby leads: by an exclusive queue, as fedmq does it, and by a single active consumer.

PYTHONPATH=tests:. python -m benchmarks.leadership

Two processes on a cluster of three nodes, at different ones; the one that leads is killed, or the node that it is at,
or both. With the exclusive queue the other one asks once a second, as a standby aggregator does. The single active
consumer is one of a quorum queue that holds one message: who has it leads. Seconds from the kill until one leads.
"""

import argparse
import multiprocessing
import os
import signal
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pika
from rabbitmq_cluster import RabbitCluster
from rabbitmq_node import RabbitNode

_QUEUE, _ASKS_EVERY_S, _LIMIT_S = "leader", 1.0, 120.0
_SINGLE = {"x-queue-type": "quorum", "x-single-active-consumer": True}

Leads = "Queue[tuple[int, float]]"


def _by_exclusive_queue(urls: list[str], number: int, leads: Leads) -> None:
    """Asks for the queue once a second, at one node after the other."""
    while True:
        for url in urls:
            with suppress(pika.exceptions.AMQPError, OSError):
                connection = pika.BlockingConnection(pika.URLParameters(url))
                while not _has_queue(connection):
                    connection.sleep(_ASKS_EVERY_S)
                leads.put((number, time.time()))
                while True:
                    connection.process_data_events(1.0)


def _has_queue(connection: pika.BlockingConnection) -> bool:
    try:
        connection.channel().queue_declare(_QUEUE, exclusive=True)
    except pika.exceptions.ChannelClosedByBroker:
        return False
    return True


def _by_single_consumer(urls: list[str], number: int, leads: Leads) -> None:
    """Consumes, and leads once the message comes."""

    def on_message(channel: Any, method: Any, properties: Any, body: bytes) -> None:
        leads.put((number, time.time()))

    while True:
        for url in urls:
            with suppress(pika.exceptions.AMQPError, OSError):
                channel = pika.BlockingConnection(pika.URLParameters(url)).channel()
                channel.basic_consume(_QUEUE, on_message)
                channel.start_consuming()


def _took_over_s(
    cluster: RabbitCluster, contends: Callable[[list[str], int, Leads], None], *, process: bool, node: bool
) -> float:
    """Seconds from the kill of the leading process, of its node, or of both, until the other process leads."""
    context = multiprocessing.get_context("spawn")
    leads: Leads = context.Queue()
    urls = [each.url for each in cluster.nodes]
    contenders = []
    for number, own in enumerate((urls, [*urls[1:], urls[0]])):
        contenders.append(context.Process(target=contends, args=(own, number, leads), daemon=True))
        contenders[-1].start()
        if number == 0:
            leads.get(timeout=_LIMIT_S)
    time.sleep(3.0)  # the second one waits by now
    struck_at = time.time()
    if process:
        os.kill(contenders[0].pid or 0, signal.SIGKILL)
    if node:
        cluster.nodes[0].kill()
    at = struck_at
    while at <= struck_at:
        _, at = leads.get(timeout=_LIMIT_S)
    for each in contenders:
        each.kill()
        each.join()
    return at - struck_at


def _prepare(node: RabbitNode) -> None:
    """The queue with the one message; its leader is at this node, where the first contender is."""
    with pika.BlockingConnection(pika.URLParameters(node.url)) as connection:
        channel = connection.channel()
        channel.confirm_delivery()
        channel.queue_delete(_QUEUE)
        channel.queue_declare(_QUEUE, durable=True, arguments=_SINGLE)
        channel.basic_publish("", _QUEUE, b"who has it leads", pika.BasicProperties(delivery_mode=2))


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.leadership", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--times", type=int, default=5, help="how often each is killed")
    given = parser.parse_args(argv)
    blows = {"the process": (True, False), "its node": (False, True), "both": (True, True)}
    with tempfile.TemporaryDirectory() as folder, RabbitCluster(Path(folder)) as cluster:
        print(
            f"RabbitMQ {cluster.nodes[0].ctl('version').strip()}; median (least to most) of {given.times}, in seconds"
        )
        for contends, name in (
            (_by_exclusive_queue, "exclusive queue"),
            (_by_single_consumer, "single active consumer"),
        ):
            for killed, (process, node) in blows.items():
                taken = []
                for _ in range(given.times):
                    cluster.heal()
                    if contends is _by_single_consumer:
                        _prepare(cluster.nodes[0])
                    else:
                        _forget(cluster.nodes[0])
                    taken.append(_took_over_s(cluster, contends, process=process, node=node))
                spread = f"{min(taken):.2f} to {max(taken):.2f}"
                print(f"{name:23}  {killed:12}  {statistics.median(taken):6.2f}  ({spread})", flush=True)


def _forget(node: RabbitNode) -> None:
    with pika.BlockingConnection(pika.URLParameters(node.url)) as connection:
        connection.channel().queue_delete(_QUEUE)


if __name__ == "__main__":
    main()
