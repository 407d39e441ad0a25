"""What is on the stream of models."""

import logging

from broker import Transport
from broker.wire import Buffer, ModelHead, Trust, decode_from
from console import MessageError

log = logging.getLogger(__name__)


def newest_head(transport: Transport, trust: Trust) -> tuple[ModelHead, Buffer] | None:
    """The newest head on the stream and its payload; None if there is none that can be read and is an aggregator's."""
    body = transport.newest_head()
    if body is None:
        return None
    try:
        message = decode_from(body, ModelHead, trust=trust)
    except MessageError as error:
        log.warning("the newest message on the model stream is passed over: %s", error)
        return None
    return message.header, message.payload
