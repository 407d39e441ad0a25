"""The permissions of broker users, as commands for a shell and as definitions that RabbitMQ imports."""

import base64
import hashlib
import itertools
import re
import secrets
import shlex
from collections.abc import Sequence
from typing import Any, Literal

from broker.rabbitmq import Permissions, permissions
from broker.wire import Topology
from console import SettingsError

Role = Literal["worker", "aggregator", "partial", "keeper", "operator", "onlooker"]

_WORKER_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,63}")
_USER_NAME = re.compile(r"[!-,.-~][!-~]{0,254}")
"""Printable, and no flag."""


def permission_lines(
    names: Sequence[str], role: Role, queue: str, vhost: str = "/", is_elastic: bool = False, shard: int | None = None
) -> list[str]:
    """Two `rabbitmqctl` commands a user, to be run as they are, for users that are there already.

    SettingsError for a name that cannot be one, and with ``is_elastic`` if one name would cover another.
    """
    lines = []
    for name, found in _permissions_of(names, role, queue, is_elastic=is_elastic, shard=shard):
        user = ["-p", vhost, name]
        topic = [Topology(queue).inbound, found.topic_write, found.topic_read]
        lines += [
            shlex.join(["rabbitmqctl", "set_topic_permissions", *user, *topic]),  # first: without it, all keys are free
            shlex.join(["rabbitmqctl", "set_permissions", *user, found.configure, found.write, found.read]),
        ]
    return lines


def definitions(
    names: Sequence[str],
    role: Role,
    queue: str,
    vhost: str = "/",
    is_elastic: bool = False,
    shard: int | None = None,
    password: str | None = None,
) -> dict[str, Any]:
    """The same as a document for `rabbitmqctl import_definitions`, or for a broker to load when it starts.

    With ``password`` it also makes the users, each with that password, and the virtual host. Without one it has no
    users: a user without a password hash would lose the password that it has.
    """
    found = _permissions_of(names, role, queue, is_elastic=is_elastic, shard=shard)
    made: dict[str, Any] = {}
    if password is not None:
        made = {"vhosts": [{"name": vhost}], "users": [_user(name, role, password) for name in names]}
    return made | {
        "permissions": [
            {"user": name, "vhost": vhost, "configure": own.configure, "write": own.write, "read": own.read}
            for name, own in found
        ],
        "topic_permissions": [
            {
                "user": name,
                "vhost": vhost,
                "exchange": Topology(queue).inbound,
                "write": own.topic_write,
                "read": own.topic_read,
            }
            for name, own in found
        ],
    }


def _user(name: str, role: Role, password: str) -> dict[str, Any]:
    """An onlooker may also use RabbitMQ's own page. The hash has RabbitMQ's form: salt, then SHA-256 of both."""
    salt = secrets.token_bytes(4)
    return {
        "name": name,
        "password_hash": base64.b64encode(salt + hashlib.sha256(salt + password.encode()).digest()).decode(),
        "hashing_algorithm": "rabbit_password_hashing_sha256",
        "tags": ["management"] if role == "onlooker" else [],
    }


def _permissions_of(
    names: Sequence[str], role: Role, queue: str, *, is_elastic: bool, shard: int | None
) -> list[tuple[str, Permissions]]:
    if is_elastic and role != "worker":
        raise SettingsError(f"--elastic is for workers; the user of a {role} has one name")
    for name in names:
        _check(name, role)
    if is_elastic:
        _check_apart(names)
    topology = Topology(queue)

    def of(name: str) -> Permissions:
        match role:
            case "worker":
                return permissions.worker(topology, name, is_elastic=is_elastic)
            case "keeper":
                return permissions.keeper(topology, name)
            case "partial":
                return permissions.partial(topology, shard)
            case "aggregator":
                return permissions.aggregator(topology)
            case "operator":
                return permissions.operator(topology)
            case "onlooker":
                return permissions.onlooker(topology)

    return [(name, of(name)) for name in names]


def _check(name: str, role: Role) -> None:
    """A worker's name is the name of its user, and part of its routing keys."""
    if role in ("worker", "keeper") and not _WORKER_NAME.fullmatch(name):
        raise SettingsError(
            f"{name!r} cannot be the name of a {role}: 1 to 64 letters, digits, _ and -, and no - at the beginning"
        )
    if not _USER_NAME.fullmatch(name):
        raise SettingsError(f"{name!r} cannot be the name of a user: no spaces, and no - at the beginning")


def _check_apart(names: Sequence[str]) -> None:
    """With --elastic, the user "hospital" could speak for "hospital-a"."""
    for one, other in itertools.permutations(names, 2):
        if other.startswith(f"{one}-"):
            raise SettingsError(
                f"with --elastic, the user '{one}' could speak for '{other}': that is a name for one of its own"
                " workers; give one of the two another name"
            )
