"""The state that a model head describes, verified: from its own message or from its blob."""

from collections.abc import Callable, Collection, Iterator

from broker.states.batches import Batched
from broker.states.downlink import ModelForm
from broker.states.rooms import memory_of
from broker.states.tensors import first_not_finite, state_from
from broker.transport import Transport
from broker.wire import Buffer, Digest, ModelHead
from console import Transferring, UnfitMessage, with_progress


def _unwatched(event: Transferring) -> None:
    pass


def read_model(
    head: ModelHead,
    payload: Buffer,
    transport: Transport,
    *,
    trained: Collection[str],
    on_event: Callable[[Transferring], None] = _unwatched,
) -> Batched:
    """The model's state. Check the head's specs against your own model first: that bounds what is allocated.

    UnfitMessage if the body is not what the head says, or has NaN or infinity in a parameter that is ``trained``; other
    tensors, such as masks, may have them. BlobLost if its blob cannot be read.
    """
    digest, form = Digest(head.tensors, head.checked_by.function), ModelForm.of(head)
    body, reader = memory_of(head.num_bytes), form.reader()
    size = begin = 0
    for piece in [payload] if head.blob is None else _parts(head, form.num_bytes, transport, on_event):
        size += len(piece)
        if size > form.num_bytes:
            break
        end = begin + reader.read(piece, body[begin:])
        digest.add(body[begin:end])  # while the next part comes in
        begin = end
    if size != form.num_bytes:
        raise UnfitMessage(f"payload has {size} bytes; its tensors need {form.num_bytes}")
    state = state_from(body, head.tensors)
    if digest.told() != head.checked_by:
        raise UnfitMessage("its body does not match its digest")
    if first_not_finite(state) is not None:
        broken = first_not_finite({name: tensor for name, tensor in state.items() if name in trained})
        if broken is not None:
            raise UnfitMessage(f"it has NaN or infinity in '{broken}'")
    return state


def _parts(
    head: ModelHead, num_bytes: int, transport: Transport, on_event: Callable[[Transferring], None]
) -> Iterator[Buffer]:
    assert head.blob is not None
    return with_progress(
        transport.read_blob(head.blob.name, head.blob.num_parts(num_bytes)),
        on_event,
        what=f"model of round {head.round}",
        is_upload=False,
        total_bytes=num_bytes,
        size_of=len,
    )
