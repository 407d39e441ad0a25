"""The state that a model head is of: from its own message or from its blob, verified."""

from broker.errors import UnfitMessage
from broker.messages import ModelHead
from broker.tensors import Buffer, State, digest_of, first_not_finite, state_from
from broker.transport import Transport


def read_model(head: ModelHead, payload: Buffer, transport: Transport) -> State:
    """The model's state. Check the head's specs against your own model first: that bounds what is allocated.

    A body that is not what its head says is an UnfitMessage, a blob that cannot be read a BlobLost.
    """
    body = bytearray(payload) if head.blob is None else _from_blob(head, transport)
    state = state_from(body, head.tensors)
    if digest_of(state) != head.sha256:
        raise UnfitMessage("its body is not the one that its digest is of")
    broken = first_not_finite(state)
    if broken:
        raise UnfitMessage(f"it has NaN or infinity in '{broken}'")
    return state


def _from_blob(head: ModelHead, transport: Transport) -> bytearray:
    assert head.blob is not None
    body, offset = bytearray(head.num_bytes), 0
    for part in transport.read_blob(head.blob.name, head.blob.num_parts(head.num_bytes)):
        if offset + len(part) > len(body):
            raise UnfitMessage(f"its blob has more than the {len(body)} bytes announced")
        body[offset : offset + len(part)] = part
        offset += len(part)
    if offset != len(body):
        raise UnfitMessage(f"its blob has {offset} bytes; {len(body)} were announced")
    return body
