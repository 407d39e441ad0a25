"""What RabbitMQ says of nodes that come and go, from 3.10 to 4.x, and what is final."""

import pytest

from broker.rabbitmq.links.faults import Kind, channel_error, connection_error, of_channel, of_connection
from console import BrokerFault, BrokerRefused, BrokerUnreachable, QueueMissing

STREAM = "PRECONDITION_FAILED - stream queue 'updates.models' in vhost '/'"

CHANNELS = [
    # 3.10
    (404, "NOT_FOUND - no queue 'updates' in vhost '/'", Kind.MISSING),
    (404, "NOT_FOUND - no queue 'timeout is down or inaccessible' in vhost '/'", Kind.MISSING),
    (404, "NOT_FOUND - no exchange 'updates.in' in vhost '/'", Kind.MISSING),
    (
        404,
        "NOT_FOUND - home node 'a@b' of durable queue 'updates.presence' in vhost '/' is down or inaccessible",
        Kind.FAULT,
    ),
    (404, "NOT_FOUND - queue 'updates.presence' in vhost '/' process is stopped by supervisor", Kind.FAULT),
    (404, "NOT_FOUND - queue 'updates.presence' in vhost '/' crashed and failed to restart", Kind.FAULT),
    (406, f"{STREAM} does not have a replica on the local node", Kind.PASSING),
    (
        406,
        "PRECONDITION_FAILED - delivery acknowledgement on channel 1 timed out. Timeout value used: 1000 ms.",
        Kind.PASSING,
    ),
    (406, "PRECONDITION_FAILED - inequivalent arg 'x-queue-type' for queue 'updates' in vhost '/'", Kind.REFUSED),
    (406, "PRECONDITION_FAILED - message size 134217729 is larger than configured max size 134217728", Kind.REFUSED),
    (
        405,
        "RESOURCE_LOCKED - cannot obtain exclusive access to locked queue 'updates.leader' in vhost '/'",
        Kind.REFUSED,
    ),
    (403, "ACCESS_REFUSED - access to queue 'timeout' in vhost '/' refused for user 'a'", Kind.REFUSED),
    # 4.0
    (406, f"{STREAM} does not have a running replica on the local node", Kind.PASSING),
    (
        404,
        "NOT_FOUND - failed to perform operation on queue 'updates.presence' in vhost '/' due to timeout",
        Kind.FAULT,
    ),
    (404, "NOT_FOUND - timed out while declaring queue 'updates' in vhost '/'", Kind.FAULT),
    (404, "NOT_FOUND - leader of queue 'updates' in vhost '/' may be stopping or being demoted", Kind.FAULT),
    (
        541,
        "INTERNAL_ERROR - Could not declare queue 'updates' in vhost '/' because the operation timed out",
        Kind.FAULT,
    ),
    (
        541,
        "INTERNAL_ERROR - Cannot declare a queue 'queue 'u' in vhost '/'' on node 'a@b': {error,timeout}",
        Kind.FAULT,
    ),
]
CONNECTIONS = [
    (320, "CONNECTION_FORCED - broker forced connection closure with reason 'shutdown'", Kind.PASSING),
    (320, "CONNECTION_FORCED - Node was put into maintenance mode", Kind.PASSING),
    (541, "INTERNAL_ERROR", Kind.FAULT),
    (541, "INTERNAL_ERROR - access to vhost '/' refused for user 'guest': vhost '/' is down", Kind.FAULT),
    (530, "NOT_ALLOWED - access to vhost '/' refused for user 'guest': vhost '/' is down", Kind.PASSING),
    (530, "NOT_ALLOWED - access to vhost '/' refused for user 'a': connection limit (10) is reached", Kind.PASSING),
    (530, "NOT_ALLOWED - vhost nowhere not found", Kind.REFUSED),
    (403, "ACCESS_REFUSED - Login was refused using authentication mechanism PLAIN", Kind.REFUSED),
    (501, "FRAME_ERROR - type 2, first 16 octets", Kind.PASSING),
]


@pytest.mark.parametrize(("code", "text", "kind"), CHANNELS)
def test_the_end_of_a_channel_means(code: int, text: str, kind: Kind) -> None:
    assert of_channel(code, text) is Kind(kind)


@pytest.mark.parametrize(("code", "text", "kind"), CONNECTIONS)
def test_the_end_of_a_connection_means(code: int, text: str, kind: Kind) -> None:
    assert of_connection(code, text) is kind


def test_each_kind_is_an_error_of_its_own_that_keeps_what_the_broker_said() -> None:
    kinds = {Kind(kind): channel_error(code, text) for code, text, kind in reversed(CHANNELS)}
    assert {kind: type(error) for kind, error in kinds.items()} == {
        Kind.MISSING: QueueMissing,
        Kind.PASSING: BrokerUnreachable,
        Kind.FAULT: BrokerFault,
        Kind.REFUSED: BrokerRefused,
    }
    for code, text, _ in CHANNELS:
        assert text in str(channel_error(code, text))


def test_no_end_of_an_open_connection_is_final() -> None:
    """What is final is said again at the next login."""
    for code, text, kind in CONNECTIONS:
        expected = BrokerFault if kind is Kind.FAULT else BrokerUnreachable
        assert type(connection_error(code, text)) is expected
