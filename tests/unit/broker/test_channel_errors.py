"""Which refusals of a broker are final, and which pass by themselves."""

import pytest

from broker.rabbitmq.connection import _channel_error
from console import BrokerRefused, BrokerUnreachable

STREAM = "PRECONDITION_FAILED - stream queue 'updates.models' in vhost '/'"


@pytest.mark.parametrize("words", ["does not have a replica", "does not have a running replica"])
def test_a_stream_that_is_just_being_made_is_waited_for(words: str) -> None:
    """A worker that reads while the aggregator declares, which ended it for good."""
    assert isinstance(_channel_error(406, f"{STREAM} {words} on the local node"), BrokerUnreachable)


def test_other_arguments_than_those_of_the_queue_are_final() -> None:
    assert isinstance(_channel_error(406, "PRECONDITION_FAILED - inequivalent arg 'x-queue-type'"), BrokerRefused)
