"""Putting a global model where every worker finds it: inline with its head, or as a blob that the head names."""

from aggregator.checkpoint import ModelFile
from broker.codec import encode
from broker.messages import BlobRef, ModelHead
from broker.tensors import cut
from broker.topology import Topology
from broker.transport import Transport


def broadcast(
    transport: Transport,
    head: ModelHead,
    model: ModelFile,
    *,
    topology: Topology,
    inline_cap: int,
    part_bytes: int,
) -> ModelHead:
    """Publishes a model; returns the head as it went out.

    A head that names its blob already is sent alone, so that nobody who reads the blob is disturbed.
    """
    if head.blob is not None:
        transport.broadcast(encode(head))
        return head
    pieces = model.pieces(head.tensors)
    if head.num_bytes <= inline_cap:
        transport.broadcast(encode(head, b"".join(pieces)))
        return head
    blob = BlobRef(name=topology.model_blob(head.run_id, head.round), part_bytes=part_bytes)
    head = head.model_copy(update={"blob": blob})
    transport.write_blob(blob.name, cut(pieces, part_bytes))
    transport.broadcast(encode(head))
    return head
