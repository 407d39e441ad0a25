"""A keeper's answers as messages: a sum of masks, or why there is none."""

from collections.abc import Callable
from dataclasses import dataclass

from broker import Transport
from broker.wire import (
    MAX_OBJECTION,
    MAX_UNFIT,
    BlobRef,
    KeeperRequest,
    Outgoing,
    Release,
    Withheld,
    cut,
    encode,
    mask_specs,
)
from console import BlobLost, Transferring, with_progress
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

    def release(self, request: KeeperRequest, granted: Granted, num_updates: int, masks: MaskSum) -> int:
        """Sends this sum, noised already; returns its size in bytes."""
        config, specs = self.config, mask_specs(request.num_words, request.num_halves)
        body, payload, blob = Outgoing(specs, masks.sizes.num_bytes), b"", None
        if masks.sizes.num_bytes <= config.inline_cap:
            payload = body.whole(masks.pieces())
        else:
            body, blob = self._uploaded(request, masks)
        head = Release(
            tensors=specs,
            sha256=body.sha256,
            blob=blob,
            run_id=request.run_id,
            round=request.round,
            keeper=config.name,
            set_sha256=request.set_sha256,
            num_updates=num_updates,
            num_sites=granted.num_sites,
            noise=granted.sigma,
        )
        self._send(encode(head, payload, trust=config.membership.trust))
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

    def _uploaded(self, request: KeeperRequest, masks: MaskSum) -> tuple[Outgoing, BlobRef]:
        """The body, which is at the broker then."""
        config = self.config
        wanted = config.topology.release_blob(config.name, request.run_id, request.round)
        for attempt in range(1, _MAX_UPLOADS + 1):
            body = Outgoing(mask_specs(request.num_words, request.num_halves), masks.sizes.num_bytes)
            parts = with_progress(
                cut(masks.pieces(), config.part_bytes),
                self.on_event,
                what=f"sum of masks for round {request.round}",
                is_upload=True,
                total_bytes=masks.sizes.num_bytes,
                size_of=len,
            )
            try:
                name = self.transport.write_blob(wanted, body.parts(parts))
            except BlobLost:
                if attempt == _MAX_UPLOADS:
                    raise
            else:
                return body, BlobRef(name=name, part_bytes=config.part_bytes)
        raise AssertionError("unreachable")

    def _send(self, body: bytes) -> None:
        self.transport.send_release(body, keeper=self.config.name)
