"""Putting a global model where every worker finds it: inline with its head, or as a blob that the head names."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from aggregator.commands import Steering
from aggregator.config import AggregatorConfig
from aggregator.corrections import CONTROL_SUM, Counting, with_control
from aggregator.noising import Spending
from aggregator.opening.on_stream import newest_head
from aggregator.opening.run import Run
from aggregator.presence import NameConflicts, asked_every_s
from aggregator.rounds import Stores
from aggregator.state import ModelFile, WrittenModel
from aggregator.sums import Summing
from broker import BlobUpload
from broker.states import ModelForm
from broker.wire import (
    BlobRef,
    Buffer,
    Cutter,
    Digest,
    DigestFunction,
    Draw,
    LocalTraining,
    ModelHead,
    Protection,
    Specs,
    encode,
    is_name_of,
    names_of,
    num_bytes_of,
)
from console import Progress

_LARGE_BYTES = 2**18
"""Of a model, from which on its head has BLAKE3's digest as well."""


@dataclass(frozen=True, slots=True)
class Staged:
    """The body of a model, ready to be published: the bytes that go with its head, or the blob that the head names."""

    payload: bytes = b""
    blob: BlobRef | None = None
    sha256: str | None = None
    """The digest of what is read from it, if that is not the model alone, to the bit."""
    blake3: str | None = None
    """The same by BLAKE3, of a large model."""


class ModelUpload(Protocol):
    """A model's body on its way to where its head will find it; nobody reads it before that head is published."""

    def write(self, piece: Buffer) -> None:
        """Takes the next piece of what it is to hold, cut between elements."""

    def finish(self) -> Staged:
        """Returns once all of it is there."""


class _InHead:
    """A small model: kept until it goes out with its head."""

    def __init__(self) -> None:
        self._pieces: list[Buffer] = []

    def write(self, piece: Buffer) -> None:
        self._pieces.append(piece)

    def finish(self) -> Staged:
        return Staged(b"".join(self._pieces))


class _InBlob:
    """A large model: sent to the broker part by part."""

    def __init__(self, upload: BlobUpload, part_bytes: int, progress: Progress, names: set[str]) -> None:
        self._upload, self._part_bytes, self._progress, self._names = upload, part_bytes, progress, names
        self._cutter = Cutter(part_bytes)

    def write(self, piece: Buffer) -> None:
        for part in self._cutter.add(piece):
            self._write(part)

    def finish(self) -> Staged:
        for part in self._cutter.rest():
            self._write(part)
        name = self._upload.finish()
        self._names.add(name)
        return Staged(blob=BlobRef(name=name, part_bytes=self._part_bytes))

    def _write(self, part: bytes) -> None:
        self._upload.write(part)
        self._progress.add(len(part))


class _Digested:
    """A body in its form, with digests over what is read from it."""

    def __init__(self, upload: ModelUpload, form: ModelForm, specs: Specs, functions: Sequence[DigestFunction]) -> None:
        self._upload, self._writer = upload, form.writer()
        self._digests = [Digest(specs, function) for function in functions]

    def write(self, piece: Buffer) -> None:
        for read, sent in self._writer.pieces(piece):
            for digest in self._digests:
                digest.add(read)
            self._upload.write(sent)

    def finish(self) -> Staged:
        digests: Mapping[str, Any] = {digest.function: digest.hex() for digest in self._digests}
        return replace(self._upload.finish(), **digests)


def _protection(config: AggregatorConfig) -> tuple[Protection, ...]:
    """What updates have to be; a masked body needs no sealing."""
    asked = config.membership.protection
    return asked if config.masking is None else tuple(each for each in asked if each != "sealed")


class Broadcaster:
    """The aggregator's side of the model stream."""

    def __init__(
        self,
        run: Run,
        config: AggregatorConfig,
        stores: Stores,
        conflicts: NameConflicts,
        steering: Steering,
        counting: Counting,
        summing: Summing | None = None,
        spending: Spending | None = None,
    ) -> None:
        self._run, self._config, self._steering, self._summing = run, config, steering, summing
        self._counting, self._spending = counting, spending
        self._on_event = stores.on_event
        self._transport, self._directory, self._ledger = stores.transport, stores.directory, stores.ledger
        self._blobs: dict[int, set[str]] = {}
        """Round -> the blobs of its model that we wrote or found on the stream."""
        self._last_freed = 0
        """Models up to this round are deleted, including any that a killed aggregator left behind."""
        self._conflicts = conflicts
        self._head: ModelHead | None = None

    @property
    def has_large_model(self) -> bool:
        """Whether a model travels in a blob."""
        return self._run.form.num_bytes > self._config.inline_cap

    @property
    def local(self) -> LocalTraining | None:
        """What the newest head says of local training; None before there is one."""
        return None if self._head is None else self._head.local

    def ensure(self, number: int, *, is_finished: bool = False, only_evaluate: bool = False) -> None:
        """Publishes the model that round ``number`` begins with, unless it is the newest on the stream.

        A worker that has already answered answers again only to a head of a new epoch.
        ``is_finished``: the run is over and this model is the final one. ``only_evaluate``: it is, but the sites are
        still to measure it.
        """
        newest = newest_head(self._transport, self._config.membership.trust)
        head = newest[0] if newest else None
        if head is not None and head.run_id == self._run.run_id and head.blob is not None and self._is_model(head):
            self._blobs.setdefault(head.round, set()).add(head.blob.name)
        if head is None or head.run_id != self._run.run_id:
            self.publish(number, self._stage_file(number), is_finished=is_finished, only_evaluate=only_evaluate)
            self._delete_earlier_run(head)
        elif not self._is_wanted(head.epoch) or not self._asks_for(head, number, is_finished, only_evaluate):
            self.publish(number, self._stage_file(number), is_finished=is_finished, only_evaluate=only_evaluate)
        else:
            self._head = head
            if is_finished and head.blob is not None:  # a killed aggregator may not have got to this
                self._delete_outdated(number, is_finished=True)

    def _asks_for(self, head: ModelHead, number: int, is_finished: bool, only_evaluate: bool) -> bool:
        """Whether a head asks the right workers for the right thing."""
        draw = None if is_finished or only_evaluate else self._draw_of(number)
        wanted = (number, is_finished, only_evaluate, draw)
        return (head.round, head.is_finished, head.only_evaluate, head.draw) == wanted

    def _is_wanted(self, epoch: int) -> bool:
        """Whether a head of this epoch asks for what the open round needs, and is of a start of this directory."""
        return self._ledger.min_epoch() <= epoch <= self._run.epoch

    def upload(self, number: int) -> ModelUpload:
        """Begins to send the body of the model that round ``number`` begins with to where its head will find it.

        The round before may still be open. If it closes with other bits after all, this is done again.
        """
        upload: ModelUpload = _InHead() if self._is_in_head(number) else self._blob(number)
        functions: list[DigestFunction] = [] if self._run.sends_model_alone else ["sha256"]
        if self._run.form.num_bytes >= _LARGE_BYTES:
            functions.append("blake3")
        return _Digested(upload, self._run.form, self._run.sent, functions) if functions else upload

    def _is_in_head(self, number: int) -> bool:
        return not self.has_large_model and not self._is_for_some(number)

    def _blob(self, number: int) -> ModelUpload:
        name = self._config.topology.model_blob(self._run.run_id, number)
        progress = Progress(
            self._on_event,
            what=f"model of round {number}",
            is_upload=True,
            total_bytes=self._run.form.num_bytes,
        )
        blob = self._transport.open_blob(name)
        return _InBlob(blob, self._config.part_bytes, progress, self._blobs.setdefault(number, set()))

    def _is_for_some(self, number: int) -> bool:
        """Whether not every worker needs the model: those that do not are spared it if it is not in the head."""
        return self._steering.config_of(number).sample is not None and num_bytes_of(self._run.specs) > 0

    def _stage_file(self, number: int) -> Staged:
        upload = self.upload(number)
        for piece in self._pieces(number):
            upload.write(piece)
        return upload.finish()

    def _pieces(self, number: int) -> Iterator[Buffer]:
        """What travels with the head of this round."""
        model = self._directory.model(number - 1)
        if self._run.sent is self._run.specs:
            return model.pieces(self._run.specs)
        has_total = CONTROL_SUM in self._ledger.companions(number - 1)
        total = self._directory.companion(number - 1, CONTROL_SUM) if has_total else None
        return self._with_control(model, total, population=self._counting.population(number))

    def _with_control(self, model: ModelFile, total: ModelFile | None, *, population: float) -> Iterator[Buffer]:
        return with_control(model, total, self._run.specs, self._run.sent, population=population)

    def stage(self, number: int, written: WrittenModel, *, population: float) -> Staged:
        """Sends the model that round ``number`` begins with, and the control variate that goes with it.

        They lie on the disk, and not yet in their places.
        """
        upload, total = self.upload(number), written.companion(CONTROL_SUM)
        for piece in self._with_control(written.model, total, population=population):
            upload.write(piece)
        return upload.finish()

    def finish(self) -> None:
        """Publishes the last model, which the sites have measured, once more: as the final one."""
        head = self._head
        if head is None:
            raise RuntimeError("no model was published")
        body = self._stage_file(head.round) if head.blob is None else Staged(blob=head.blob, blake3=head.blake3)
        self.publish(head.round, body, is_finished=True)

    def publish(self, number: int, body: Staged, *, is_finished: bool = False, only_evaluate: bool = False) -> None:
        """Publishes the model that round ``number`` begins with. Publishing it again changes nothing for readers."""
        config = self._steering.config_of(number)
        draw = None if is_finished or only_evaluate else self._draw_of(number)
        head = ModelHead(
            tensors=self._run.sent,
            sets=config.correction.sets,
            sha256=self._ledger.sent_sha256(number - 1),
            blake3=body.blake3,
            run=config.run,
            run_id=self._run.run_id,
            epoch=self._run.epoch,
            round=number,
            num_rounds=config.ending.rounds,
            is_finished=is_finished,
            seed=config.seed,
            max_staleness=config.policy.max_staleness,
            local=config.local,
            compression=config.compression,
            shared=config.shared,
            num_shards=config.topology.num_shards,
            weighting=str(config.weigher),
            figures=config.weigher.needs,
            clip_norm=config.weigher.clip_norm,
            name_conflicts=self._conflicts.names,
            presence_every_s=asked_every_s(self._ledger.num_present()),
            excluded=tuple(self._steering.standing.excluded),
            inline_cap=config.inline_cap,
            protection=_protection(config),
            masking=config.masking,
            privacy=None if self._spending is None else self._spending.terms,
            began_at=self._ledger.began_at(),
            base_sha256=self._run.base_sha256,
            correction=str(config.correction) if config.correction else None,
            control_epoch=self._counting.epoch(number).number,
            counted=self._counting.counted(number),
            blob=body.blob,
            replies=("diverged", "measured"),
            only_evaluate=only_evaluate,
            purpose="train" if self._summing is None else self._summing.purpose,
            statistics=dict(self._run.statistics),
            operations={} if self._summing is None else self._summing.operations,
            draw=draw,
            downlink=config.downlink,
        )
        self._broadcast(head, body.payload)
        if body.blob is not None or self._blobs:
            self._delete_outdated(number, is_finished=is_finished)
        self._head = head

    def _draw_of(self, number: int) -> Draw | None:
        """The draw that counts for a round; None if everybody takes part."""
        return next(reversed(self._ledger.draws(number)), None)

    def draw_again(self, draw: Draw) -> None:
        """Has others take part in the open round: its model goes out again, for those of this draw."""
        self._publish_again(draw=draw)

    def announce_conflicts(self) -> None:
        """Informs workers with the same name of each other.

        The open round's head is published again.
        """
        self._publish_again(name_conflicts=self._conflicts.names)

    def _publish_again(self, **changes: Any) -> None:
        """The newest head with these changes; its blob, which somebody may be reading, stays as it is."""
        if self._head is None:
            return
        if self._head.blob is None:
            only_evaluate = self._head.only_evaluate
            self.publish(self._head.round, self._stage_file(self._head.round), only_evaluate=only_evaluate)
        else:
            self._head = self._head.model_copy(update=changes)
            self._broadcast(self._head)

    def _broadcast(self, head: ModelHead, payload: Buffer = b"") -> None:
        """Sends a head to everybody, in few bytes where not everybody takes part."""
        trust = self._config.membership.trust
        self._transport.broadcast(encode(head, payload, trust=trust, deflates=head.draw is not None))

    def _delete_outdated(self, number: int, *, is_finished: bool) -> None:
        """Deletes older models. The one before this stays, unless the run is over: somebody may still be reading it."""
        first = 1 if is_finished else 2
        last = number - first
        outdated = range(max(number - 3, self._last_freed + 1), last + 1)
        self._transport.delete_blobs([name for each in outdated for name in self._blobs_of(each)])
        self._blobs = {each: names for each, names in self._blobs.items() if each > last}
        self._last_freed = max(last, self._last_freed)

    def _blobs_of(self, number: int) -> Sequence[str]:
        """The blobs of a round's model; every name it may have, if an earlier aggregator wrote it."""
        written = self._blobs.get(number)
        return sorted(written) if written else names_of(self._config.topology.model_blob(self._run.run_id, number))

    def _delete_earlier_run(self, head: ModelHead | None) -> None:
        """Deletes the final model of a finished run, which stays until another run is on the queue."""
        if head is not None and head.is_finished and head.blob is not None and self._is_model(head):
            self._transport.delete_blobs([head.blob.name])

    def _is_model(self, head: ModelHead) -> bool:
        """Whether the blob that a head names is a model's: whoever wrote the head may have named any queue."""
        assert head.blob is not None
        return is_name_of(head.blob.name, self._config.topology.model_blob(head.run_id, head.round))
