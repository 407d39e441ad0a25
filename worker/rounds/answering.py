"""What a worker sends in answer to a model: its update, or a reply that says why there is none."""

import logging
import secrets
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal

from broker import SentBody, Transport
from broker.states import Encoding, MaskedEncoding, State, chunks, encoding_of
from broker.wire import (
    MAX_OBJECTION,
    SALT_BYTES,
    Buffer,
    ModelHead,
    Reply,
    Topology,
    UpdateHead,
    encode,
    name_of_masked,
    names_of,
    num_bytes_of,
)
from console import BlobLost, metrics_text
from identities import Membership
from learning import AT_SITES, IN_TRAINING, Measured, finite, not_finite, plain
from worker.events import UpdateSent, Watcher
from worker.masking import CannotBeSummed, Covered, integers_of, limited, sealed_seeds
from worker.rounds.error_feedback import Compressed, compress
from worker.rounds.trainer import Diverged, NoUpdate, Trained, derived_seed
from worker.rounds.upload import Uploader
from worker.state import OwnNoise

log = logging.getLogger(__name__)

_MAX_UPLOADS = 5
"""Uploads of one update, if its blob is lost on the way each time."""

_NOTHING: dict[str, Any] = {"num_samples": 1, "train_s": 0.0}
"""What the header of an update says of its site where nothing of a single one may be known."""


class Answers:
    """The answers of one worker.

    ``is_over`` says whether an update for a head's round can still count; ``min_sites`` is the fewest sites whose
    masked updates may be summed up; ``noise`` is the worker's own, None: it adds none.
    """

    def __init__(
        self,
        *,
        name: str,
        instance: str,
        transport: Transport,
        topology: Topology,
        inline_cap: int,
        membership: Membership,
        min_sites: int,
        noise: OwnNoise | None,
        is_over: Callable[[ModelHead], bool],
        on_event: Watcher,
    ) -> None:
        self._name, self._instance, self._transport, self._topology = name, instance, transport, topology
        self._inline_cap, self._membership, self._min_sites = inline_cap, membership, min_sites
        self._noise, self._is_over, self._on_event = noise, is_over, on_event
        self._encoding: Encoding | MaskedEncoding | None = None
        self._asked: tuple[object, ...] = ()
        """What the heads said by which it was made."""
        self._last_blob = ("", "")
        """(run id, name) of the last blob written."""
        self._uploader = Uploader(
            name=name,
            instance=instance,
            transport=transport,
            topology=topology,
            inline_cap=inline_cap,
            sealing=membership.sealing,
            on_event=on_event,
        )

    def is_inline(self, head: ModelHead) -> bool:
        """Whether an update for this head travels in its message."""
        return num_bytes_of(self.encoding_for(head).encoded) <= head.cap(self._inline_cap)

    def encoding_for(self, head: ModelHead) -> Encoding | MaskedEncoding:
        """How updates from this model travel: the last encoding, as long as heads ask for the same."""
        asked = (head.update_specs, head.compression, head.masking, head.privacy if head.masking else None)
        if self._encoding is None or asked != self._asked:
            self._asked, self._encoding = asked, encoding_of(head)
        return self._encoding

    def encoded(
        self, head: ModelHead, trained: Trained, measured: Measured, residual: State
    ) -> tuple[Compressed, Mapping[str, float]]:
        """What travels of a delta and the last residual, not masked yet, and what is to be said of its limits.

        Diverged if it cannot travel.
        """
        encoding = self.encoding_for(head)
        if isinstance(encoding, Encoding):
            seed = derived_seed(head.seed, head.round, self._name)
            delta, limits = limited(
                head, trained.delta, encoding.specs, keys=lambda update: self._noise_key(head, update)
            )
            return compress(delta, residual, encoding, seed=seed), limits
        try:
            summand = integers_of(
                head,
                encoding,
                trained.delta,
                residual,
                num_samples=trained.num_samples,
                metrics=_metrics_of(trained, measured),
                keys=lambda update: self._noise_key(head, update),
            )
        except CannotBeSummed as error:
            raise Diverged(str(error)) from error
        return Compressed(summand.integers, summand.residual), {}

    def send_update(
        self,
        head: ModelHead,
        compressed: Compressed,
        trained: Trained,
        measured: Measured,
        *,
        figures: Mapping[str, float],
        limits: Mapping[str, float],
        base_sha256: str | None,
        is_fresh: bool,
    ) -> None:
        """Sends what ``encoded`` gave.

        ``figures`` are what the head asks to be told of the update, ``limits`` what may be told also where nothing else
        of a single site may be known. BlobLost if the round is over before all of it is sent.
        """
        begun_at = time.perf_counter()
        encoding = self.encoding_for(head)
        masks, pieces = _under_masks(head, encoding, compressed.encoded)
        sent, sealed = self._body(head, encoding, pieces)
        if sent.blob is not None:
            self._last_blob = (head.run_id, sent.blob.name)
        salt = secrets.token_hex(SALT_BYTES) if masks else None
        update = UpdateHead(
            tensors=encoding.encoded,
            **sent.header_fields(),
            sealed=sealed,
            compression=head.compression,
            run_id=head.run_id,
            worker=self._name,
            instance=self._instance,
            round=head.round,
            model_sha256=head.sha256,
            base_sha256=base_sha256,
            sent_at=time.time(),
            **(_told_of(trained, measured, figures) if head.tells_of_sites else _NOTHING | {"figures": limits}),
            seeds=self._sealed_seeds(head, encoding, masks, name_of_masked(sent.digest.hex, salt)) if masks else (),
            salt=salt,
            is_fresh=is_fresh,
        )
        body = encode(update, *sent.payload, trust=self._membership.trust)
        self._transport.send(body, worker=self._name, num_shards=head.num_shards)
        num_bytes = len(body) + (num_bytes_of(encoding.encoded) if sent.blob else 0)
        self._on_event(UpdateSent(round=head.round, num_bytes=num_bytes, seconds=time.perf_counter() - begun_at))
        log.info(
            "round %3d → %6d samples %8.2f s training  %s",
            head.round,
            trained.num_samples,
            trained.train_s,
            metrics_text(trained.metrics),
            extra={
                "round": head.round,
                "run_id": head.run_id,
                "num_samples": trained.num_samples,
                "train_s": trained.train_s,
                "num_bytes": num_bytes,
                "metrics": plain(trained.metrics),
                "eval_metrics": plain(measured.recorded()),
            },
        )

    def reply(
        self,
        head: ModelHead,
        outcome: Literal["diverged", "measured"],
        measured: Measured,
        *,
        reason: str | None = None,
        train_s: float = 0.0,
    ) -> None:
        """Says at the aggregator that there is no update, if it takes such an answer."""
        if outcome not in head.replies:
            return
        answer = Reply(
            run_id=head.run_id,
            worker=self._name,
            instance=self._instance,
            round=head.round,
            model_sha256=head.sha256,
            outcome=outcome,
            reason=None if reason is None else reason[:MAX_OBJECTION],
            sent_at=time.time(),
            **({"train_s": train_s, **_evaluation_of(measured)} if head.tells_of_sites else {}),
        )
        body = encode(answer, trust=self._membership.trust)
        self._transport.send(body, worker=self._name, num_shards=head.num_shards)

    def delete_last_blob(self, head: ModelHead) -> None:
        """Deletes the blob of an update that came after the run's end, which no aggregator will ever read.

        A worker killed after sending no longer knows the name; the blob was for the last round, or is long deleted.
        Where late updates are folded, the blob stays: the same run may go on with more rounds, and fold its update.
        """
        if head.max_staleness == 0 and not self.is_inline(head):
            run_id, name = self._last_blob
            last = self._topology.update_blob(self._name, head.run_id, head.round - 1)
            self._transport.delete_blobs([name] if run_id == head.run_id else names_of(last))

    def _body(
        self, head: ModelHead, encoding: Encoding | MaskedEncoding, pieces: Callable[[], Iterable[Buffer]]
    ) -> tuple[SentBody, str | None]:
        """The body of the update, and its sealed key; sent again if its blob is lost while the round is open.

        A broker that is killed may forget a stream that it has just made. The aggregator deletes only blobs of rounds
        that are over.
        """
        for _ in range(_MAX_UPLOADS - 1):
            try:
                return self._uploader.send(head, encoding, pieces())
            except BlobLost as error:
                if self._is_over(head):
                    raise
                log.info("round %3d: %s; sending the update again", head.round, error, extra={"round": head.round})
        return self._uploader.send(head, encoding, pieces())

    def _noise_key(self, head: ModelHead, update: bytes) -> bytes:
        """The key of this worker's own noise for the update with this digest. NoUpdate if its budget is spent."""
        assert self._noise is not None
        assert head.privacy is not None
        key = self._noise.key(head.run_id, head.round, head.privacy, update)
        if key is None:
            raise NoUpdate("this site's own privacy budget is spent")
        return key

    def _sealed_seeds(
        self, head: ModelHead, encoding: Encoding | MaskedEncoding, seeds: Sequence[bytes], masked_sha256: str
    ) -> tuple[bytes, ...]:
        """The seeds of the masks over the body that goes by this digest, each sealed to its keeper."""
        rosters = self._membership.rosters
        assert rosters is not None, "a masked run was taken part in without a roster"
        return sealed_seeds(
            seeds,
            head,
            encoding.encoded,
            worker=self._name,
            instance=self._instance,
            masked_sha256=masked_sha256,
            min_sites=self._min_sites,
            roster=rosters.current(),
            trust=self._membership.trust,
        )


def _under_masks(
    head: ModelHead, encoding: Encoding | MaskedEncoding, encoded: State
) -> tuple[Sequence[bytes], Callable[[], Iterable[Buffer]]]:
    """The seeds of the masks that the head asks for, if it does, and what gives the body under these."""
    if head.masking is None:
        return (), lambda: chunks(encoded, encoding.encoded)
    covered = Covered(encoded, encoding.encoded, num_masks=len(head.masking.keepers))
    return covered.seeds, covered.pieces


def _told_of(trained: Trained, measured: Measured, figures: Mapping[str, float]) -> Mapping[str, Any]:
    return {
        "num_samples": trained.num_samples,
        "train_s": trained.train_s,
        "train_metrics": finite(trained.metrics),
        "train_not_finite": not_finite(trained.metrics),
        "figures": figures,
        **_evaluation_of(measured),
    }


def _evaluation_of(measured: Measured) -> Mapping[str, Any]:
    return {"eval_metrics": finite(measured.recorded()), "eval_not_finite": not_finite(measured.recorded())}


def _metrics_of(trained: Trained, measured: Measured) -> dict[str, float]:
    """By the names that a head has for them. An evaluation of no samples measured nothing."""
    evaluated = {} if measured.num_samples == 0 else measured.metrics
    return {f"{IN_TRAINING}{name}": value for name, value in trained.metrics.items()} | {
        f"{AT_SITES}{name}": value for name, value in evaluated.items()
    }
