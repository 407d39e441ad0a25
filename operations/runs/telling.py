"""Telling a running aggregator something, and waiting for its answer."""

import contextlib
import secrets
import threading
import time
from collections.abc import Callable, Iterator, Sequence

from broker import Transport
from broker.wire import MAX_COMMAND_WORDS, MAX_WORD, Answer, Command, Topology, Trust, encode
from console import BrokerError, BrokerUnreachable, FedmqError, QueueMissing, SettingsError
from operations.snapshot import Condition, Snapshot, take_snapshot

_LOOK_EVERY_S = 0.25


def tell(
    transport: Transport,
    topology: Topology,
    trust: Trust,
    *,
    verb: str,
    words: Sequence[str],
    within_s: float,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> tuple[Answer, Snapshot]:
    """The answer to a command, and how the run stands then.

    The command is for the run that has last reported. BrokerUnreachable without an answer in time; it may still come
    to the aggregator. FedmqError if there is no run that could be told anything.
    """
    deadline = clock() + within_s
    command = _command(_run_id(take_snapshot(transport, topology, trust)), verb, words)
    with _given_up_after(transport, within_s):
        _send(transport, encode(command, trust=trust))
    while clock() < deadline:
        with contextlib.suppress(BrokerError):  # it may be away for a moment
            snapshot = take_snapshot(transport, topology, trust)
            found = [each for each in (snapshot.status.answers if snapshot.status else ()) if each.id == command.id]
            if found:
                return found[0], snapshot
        sleep(_LOOK_EVERY_S)
    raise BrokerUnreachable(
        f"no answer within {within_s:g} s; '{command.text}' is on the queue, and is done once an aggregator leads:"
        " fl-status shows how the run stands"
    )


def _run_id(snapshot: Snapshot) -> str:
    status = snapshot.status
    if status is None:
        raise BrokerUnreachable(f"no aggregator has reported on queue '{snapshot.topology.queue}': there is no run")
    if snapshot.condition is Condition.FINISHED:
        raise FedmqError(
            f"run {status.run_id} is finished after {status.round} rounds; its command goes on with it if it is given"
            " more --rounds"
        )
    return status.run_id


def _command(run_id: str, verb: str, words: Sequence[str]) -> Command:
    if len(words) > MAX_COMMAND_WORDS or any(not 0 < len(word) <= MAX_WORD for word in words):
        raise SettingsError(f"at most {MAX_COMMAND_WORDS} words at once, of 1 to {MAX_WORD} characters each")
    return Command(id=secrets.token_hex(16), run_id=run_id, verb=verb, words=tuple(words), sent_at=time.time())


def _send(transport: Transport, body: bytes) -> None:
    try:
        transport.send_command(body)
    except QueueMissing as error:
        raise QueueMissing(
            "the aggregator has no queue for commands: it is of an earlier version; start it again with this one"
        ) from error


@contextlib.contextmanager
def _given_up_after(transport: Transport, seconds: float) -> Iterator[None]:
    """After so many seconds, a method of the transport that waits for the broker raises BrokerUnreachable."""
    timer = threading.Timer(seconds, transport.give_up_waiting)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
