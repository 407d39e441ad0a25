"""A federation's users at a private RabbitMQ, with exactly the permissions that `fl-keys permissions` prints."""

import base64
import hashlib
import json
import secrets
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress

import pika
import pytest
from pika.adapters.blocking_connection import BlockingChannel
from pika.exceptions import AMQPError, ChannelClosedByBroker, ConnectionClosedByBroker
from rabbitmq_node import RabbitNode

from operations.permissions import Role, permission_lines

SITES = ("hospital-a", "hospital-b", "hospital-c")
USERS: dict[Role, Sequence[str]] = {
    "worker": SITES,
    "aggregator": ["aggregator"],
    "partial": ["partial"],
    "keeper": ["ethics-office"],
    "operator": ["operator"],
    "onlooker": ["onlooker"],
}
REFUSED = 403
NOT_ON_A_STREAM = 540


class Users:
    """The users of one queue."""

    def __init__(self, node: RabbitNode, queue: str) -> None:
        self.node, self.queue = node, queue
        self._password = secrets.token_hex(8)
        names = [name for group in USERS.values() for name in group]
        self._add(names)
        lines = [line for role, group in USERS.items() for line in permission_lines(group, role, queue)]
        node.shell("\n".join(lines), timeout_s=240)

    def url(self, name: str) -> str:
        return f"amqp://{name}:{self._password}@127.0.0.1:{self.node.port}/"

    @contextmanager
    def channel(self, name: str) -> Iterator[BlockingChannel]:
        """A confirming channel of this user's."""
        connection = pika.BlockingConnection(pika.URLParameters(self.url(name)))
        try:
            channel = connection.channel()
            channel.confirm_delivery()
            yield channel
        finally:
            with suppress(AMQPError):  # it may be closed, or be closed now: pika rejects what a consumer did not take
                connection.close()

    def refusal_of(self, name: str, action: Callable[[BlockingChannel], object]) -> int:
        """The code with which the broker refuses what this user does; fails if the broker does not."""
        with self.channel(name) as channel:
            try:
                action(channel)
                channel.basic_qos(prefetch_count=1)  # once the broker answers, it has done what came before
            except (ChannelClosedByBroker, ConnectionClosedByBroker) as error:
                return error.reply_code
        pytest.fail("the broker allows it")

    def allows(self, name: str, action: Callable[[BlockingChannel], object]) -> bool:
        """Whether the broker lets this user do that."""
        with self.channel(name) as channel:
            try:
                action(channel)
            except ChannelClosedByBroker as error:
                if error.reply_code != REFUSED:
                    raise
                return False
        return True

    def _add(self, names: Sequence[str]) -> None:
        salt = secrets.token_bytes(4)
        salted = base64.b64encode(salt + hashlib.sha256(salt + self._password.encode()).digest()).decode()
        users = [{"name": name, "password_hash": salted, "tags": ""} for name in names]
        file = self.node.folder / "users.json"
        file.write_text(json.dumps({"users": users}), encoding="utf-8")
        self.node.ctl("import_definitions", str(file))
