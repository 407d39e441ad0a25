"""The newest model read back from the stream, which has it as the workers do, where its file is damaged."""

import logging

from aggregator.state import Ledger, StateDirectory
from broker import Transport
from broker.modules import ModelTensors
from broker.states import read_model
from broker.wire import Buffer, ModelHead, Specs, difference, tensor_sets
from console import BlobLost, MessageError

log = logging.getLogger(__name__)


def read_back(
    directory: StateDirectory,
    ledger: Ledger,
    tensors: ModelTensors,
    sent: Specs,
    transport: Transport,
    on_stream: tuple[ModelHead, Buffer] | None,
) -> bool:
    """Puts the model after the last closed round in its place again, if it is on the stream with all of its bits.

    ``sent`` are the specs of what travels with a head of this run. The ledger's digest says whether it is that model:
    whoever wrote that head, no other takes its place.
    """
    last = ledger.last_closed_round()
    if on_stream is None:
        return False
    head, payload = on_stream
    is_this = (head.run_id, head.round - 1) == (ledger.facts()["run_id"], last)
    if not is_this or head.downlink != "none" or difference(sent, head.tensors):
        return False
    try:
        read = read_model(head, payload, transport, trained=tensors.trained)
    except (MessageError, BlobLost) as error:
        log.warning("the model of round %d on the stream is of no use: %s", head.round, error)
        return False
    written = directory.write_model(last, tensor_sets.split(read, head.sets)[tensor_sets.MODEL])
    if written.sha256 != ledger.model_sha256(last):
        return False
    with ledger.transaction():  # only while no other aggregator has taken over
        written.install()
        directory.link("last", last)
    return True
