"""A keeper's answers as messages: a sum of masks, or why there is none."""

from collections.abc import Callable
from dataclasses import dataclass

from broker import BodySender, SentBody, Transport
from broker.wire import (
    MAX_OBJECTION,
    MAX_UNFIT,
    KeeperRequest,
    Release,
    Withheld,
    encode,
    mask_specs,
)
from console import BlobLost, Transferring
from keeper.config import KeeperConfig
from keeper.expanding import MaskSum
from keeper.rules import Granted, Refused

_MAX_UPLOADS = 5
"""Of one sum, if its blob is lost on the way each time."""


@dataclass(frozen=True, slots=True)
class Answers:
    """Sends the answers of one keeper; when a method returns, the broker has them durably."""

    config: KeeperConfig
    transport: Transport
    on_event: Callable[[Transferring], None]

    def release(self, request: KeeperRequest, granted: Granted, masks: MaskSum) -> int:
        """Sends this sum, noised already; returns its size in bytes."""
        config, specs = self.config, mask_specs(request.num_words, request.num_halves)
        body = self._sent(request, masks)
        head = Release(
            tensors=specs,
            **body.header_fields(),
            run_id=request.run_id,
            round=request.round,
            keeper=config.name,
            set_sha256=request.set_sha256,
            num_updates=granted.num_updates,
            num_sites=granted.num_sites,
            noise=granted.sigma,
        )
        self._send(encode(head, *body.payload, trust=config.membership.trust))
        return masks.sizes.num_bytes

    def withhold(self, request: KeeperRequest, refused: Refused) -> None:
        """Says why there is no sum."""
        named = sorted(refused.unfit)[:MAX_UNFIT]
        head = Withheld(
            run_id=request.run_id,
            round=request.round,
            keeper=self.config.name,
            set_sha256=request.set_sha256,
            reason=refused.reason[:MAX_OBJECTION],
            is_final=refused.is_final,
            ends_run=refused.ends_run,
            unfit={worker: refused.unfit[worker][:MAX_OBJECTION] for worker in named},
        )
        self._send(encode(head, trust=self.config.membership.trust))

    def _sent(self, request: KeeperRequest, masks: MaskSum) -> SentBody:
        """The sum, which is at the broker by then if it is large."""
        config = self.config
        sender = BodySender(
            transport=self.transport,
            inline_cap=config.inline_cap,
            part_bytes=config.part_bytes,
            on_event=self.on_event,
        )
        for attempt in range(1, _MAX_UPLOADS + 1):
            try:
                return sender.send(
                    mask_specs(request.num_words, request.num_halves),
                    masks.pieces(),
                    num_bytes=masks.sizes.num_bytes,
                    blob_name=config.topology.release_blob(config.name, request.run_id, request.round),
                    what=f"sum of masks for round {request.round}",
                )
            except BlobLost:
                if attempt == _MAX_UPLOADS:
                    raise
        raise AssertionError("unreachable")

    def _send(self, body: bytes) -> None:
        self.transport.send_release(body, keeper=self.config.name)
