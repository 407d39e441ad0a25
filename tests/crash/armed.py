"""Running a command that kills itself at one point of its code: SIGKILL before or after the n-th call of a function.

The product knows nothing of this. A point is the name of one of its functions (or of a library's, where it uses one
at a boundary), and the child process wraps that function before it runs the command.
"""

import faulthandler
import functools
import importlib
import itertools
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import psutil


def run(program: str, argv: Sequence[str], trigger: dict[str, Any] | None, constants: dict[str, Any]) -> int:
    """The exit code of ``program.main(argv)``, unless ``trigger`` (see `arm`) ends it before.

    ``constants`` are module-level values to change first, as ``module:name``: value.
    """
    faulthandler.register(signal.SIGUSR1, all_threads=True)  # to see where one that hangs is
    for target, value in constants.items():
        owner, name = owner_of(target)
        setattr(owner, name, value)
    if trigger is not None:
        arm(**trigger)
    return int(importlib.import_module(program).main(argv))


def arm(
    target: str,
    when: str,
    call: int,
    about: str,
    victim: int = 0,
    delay_s: float = 0.0,
    nodes: Mapping[str, int] | None = None,
    guest: int = 0,
) -> None:
    """Has this process die ``when`` (before, after) the ``call``-th call whose arguments show ``about`` is made.

    With ``victim``, the process of this id dies in its place, ``delay_s`` later; with ``nodes`` (port: process), the
    one of them that this process is connected to, or the process ``guest``.
    """
    owner, name = owner_of(target)
    function = getattr(owner, name)
    count, lock = itertools.count(1), threading.Lock()

    def strike() -> None:
        die(victim if nodes is None else _node_of(guest or os.getpid(), nodes), delay_s)

    @functools.wraps(function)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        is_it = False
        if about in f"{args} {kwargs}":
            with lock:
                is_it = next(count) == call
        if is_it and when == "before":
            strike()
        result = function(*args, **kwargs)
        if is_it and when == "after":
            strike()
        return result

    setattr(owner, name, wrapped)


def die(victim: int, delay_s: float) -> None:
    time.sleep(delay_s)
    os.kill(victim or os.getpid(), signal.SIGKILL)


def _node_of(pid: int, nodes: Mapping[str, int]) -> int:
    """The process of the node where most connections of this one are."""
    ports = [str(each.raddr.port) for each in psutil.Process(pid).net_connections("tcp") if each.raddr]
    return Counter(nodes[port] for port in ports if port in nodes).most_common(1)[0][0]


def owner_of(target: str) -> tuple[Any, str]:
    """(object, attribute) that ``module:attribute`` or ``module:Class.attribute`` names."""
    module, _, path = target.partition(":")
    *owners, name = path.split(".")
    owner: Any = importlib.import_module(module)
    for part in owners:
        owner = getattr(owner, part)
    if not hasattr(owner, name):
        raise AttributeError(f"crash point {target}: {owner} has no {name!r}; was it renamed?")
    return owner, name
