"""The open round: the updates that count in it, and what was decided since the last commit.

The commit rule, the only one that neither loses nor double-counts an update:
1. an update is folded only if its key is neither committed nor pending;
2. a commit saves the accumulator under a new name, then, in one transaction, records that name and the updates in it;
3. only then are their blobs deleted and the updates acked; an update delivered again is recognised by its key.

Where workers may leave a running run, the body of each committed update is kept as a file until the round closes, named
in the same transaction as the update. One is taken out again in the same way: from a commit on, the sum without it is
saved under a new name; one transaction records that name and that the update is withdrawn; only then its body goes.
"""

import logging
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, Protocol, assert_never

from aggregator.bodies import Body, WithBody
from aggregator.events import Committed, SumDecided, UpdateDecided, UpdateWithdrawn, Watcher
from aggregator.rounds.accumulator import Accumulator, Key, NewAccumulator
from aggregator.rounds.answers import AnswerDecision, Excuse, ReceivedAnswer
from aggregator.rounds.directions import Directions, Length
from aggregator.rounds.intake import row_of
from aggregator.rounds.verdicts import Decision, Duplicate, Fold, Late, Refuse, Unselected
from aggregator.state import (
    Accumulated,
    Charge,
    ClosedBy,
    FoldedUpdate,
    Frozen,
    KeptBodies,
    KeptBody,
    Ledger,
    MaskSeeds,
    RoundResult,
    StateDirectory,
    UpdateRow,
    Verdict,
    Vote,
)
from aggregator.weighing import Claim, Weigher
from broker import Delivery, Transport
from broker.states import Encoding, MaskedEncoding
from broker.wire import (
    Believing,
    Buffer,
    Draw,
    SealedSeed,
    Signer,
    decode_from,
    digest_of_set,
    num_bytes_of,
)
from console import UnfitMessage

log = logging.getLogger(__name__)

_ROOM_IN_SUMS = 4
"""The room that has to be left when a body is kept, in sums: for two of them and a model, with some to spare."""

_HELD_BYTES = 4 * 2**20
"""Bodies in messages, up to this much of them, wait in memory for the commit that names them; most rounds of small
models are closed before one, and then need no file."""

_NORM_TOLERANCE = 1e-4
"""Relative; ours is summed up in float32."""

Piece = tuple[int, Buffer]
"""(offset, bytes) within what is added."""


class Contribution(WithBody, Protocol):
    """One message with one or several updates: an ``Update`` or a ``PartialSum``."""

    @property
    def signer(self) -> Signer | None:
        """Who signed it; None where senders are believed."""

    @property
    def claims(self) -> Sequence[Claim]:
        """The updates in it."""

    @property
    def base_round(self) -> int:
        """The round from whose model they were trained."""

    @property
    def shard(self) -> int | None:
        """The shard of a partial sum; None for a single update."""

    @property
    def blob_name(self) -> str | None:
        """The blob that holds its body; None if the body is in the message."""

    def received(self, num_bytes: int) -> None:
        """Has it count bytes of its blob."""

    def size_of(self, claim: Claim) -> int:
        """How many bytes one of its updates was on the wire."""

    def pieces(self, body: Body) -> Iterator[Piece]:
        """What is added from it; an UnfitMessage if it is not what was announced. The same each time."""

    def add_piece(self, accumulator: Accumulator, offset: int, piece: Buffer, weights: Sequence[float]) -> None:
        """Adds one of these pieces."""

    def remove_piece(self, accumulator: Accumulator, offset: int, piece: Buffer, weights: Sequence[float]) -> None:
        """Takes one of these pieces out again."""


def add_to(
    accumulator: Accumulator,
    contribution: Contribution,
    body: Body,
    weights: Sequence[float],
    *,
    look_at: Callable[[int, Buffer], object] | None = None,
) -> None:
    """Adds all of a message, showing each piece to ``look_at`` too; after an UnfitMessage nothing of it is in."""
    num_added = 0
    accumulator.begin_update(_key_of(contribution))
    try:
        for offset, piece in contribution.pieces(body):
            contribution.add_piece(accumulator, offset, piece, weights)
            num_added += 1
            if look_at is not None:
                look_at(offset, piece)
    except UnfitMessage:
        accumulator.end_update()
        take_out_of(accumulator, contribution, body, weights, num_pieces=num_added)
        raise
    accumulator.end_update()


def take_out_of(
    accumulator: Accumulator,
    contribution: Contribution,
    body: Body,
    weights: Sequence[float],
    *,
    num_pieces: int | None = None,
) -> None:
    """Undoes ``add_to``, to the bit, committed or not; or its first ``num_pieces`` pieces, if no more are in."""
    if num_pieces != 0:
        for offset, piece in islice(contribution.pieces(body), num_pieces):
            contribution.remove_piece(accumulator, offset, piece, weights)
    accumulator.end_removal(_key_of(contribution))


def _key_of(contribution: Contribution) -> Key:
    return Key(contribution.base_round, contribution.claims[0].worker)


@dataclass(frozen=True, slots=True, kw_only=True)
class Stores:
    """Where a round is stored, and where its messages come from."""

    epoch: int
    directory: StateDirectory
    ledger: Ledger
    bodies: KeptBodies
    keeps_bodies: bool
    """Whether updates may have to be taken out of the open round again."""
    transport: Transport
    encoding: Encoding | MaskedEncoding
    """How updates travel, and what is folded from them."""
    new_accumulator: NewAccumulator
    stepped: Collection[str]
    """The names of the trained tensors, whose updates are compared with their mean."""
    tells_of_sites: bool = True
    """Whether updates say what their sites trained on, and how long; not where they are masked, or noised."""
    clock: Callable[[], float]
    on_event: Watcher

    @property
    def are_masked(self) -> bool:
        """Whether a single update shows nothing."""
        return isinstance(self.encoding, MaskedEncoding)


class OpenRound:
    """The round that updates are folded into. There is a new one for each round; a start loads the last commit.

    With ``is_last`` none are: it is the one after the last round, in which the sites measure the last model.
    """

    def __init__(
        self,
        number: int,
        stores: Stores,
        *,
        weigher: Weigher | None = None,
        is_last: bool = False,
        most_norm: float | None = None,
    ) -> None:
        self.number = number
        self._most_norm = most_norm
        """Of what a single update may be long, over all its tensors; None: anything."""
        self.weigher = weigher or Weigher()
        """How its updates are weighed: as those were that are committed in it, if there are any."""
        self._stores = stores
        self._rows: list[UpdateRow] = []
        self._instances: dict[tuple[int, str], str] = {}
        """(base round, worker) -> instance, of updates folded since the last commit."""
        self._answers: dict[tuple[int, str], str] = {}
        """The same of answers without tensors that count."""
        self._excuse = Verdict.MEASURED if is_last else Verdict.DIVERGED
        """What an answer without tensors is that counts."""
        self.excused: dict[str, str | None] = stores.ledger.answers(number, self._excuse)
        """Worker -> why it has no update for this round, of those that said so and have sent none since."""
        self._deliveries: list[Delivery] = []
        self._blobs: list[str] = []
        self._is_short_of_room = False
        self._kept: list[KeptBody] = []
        """The bodies of updates folded since the last commit, if they are kept."""
        self._seeds: list[MaskSeeds] = []
        """Of masked updates folded since the last commit."""
        self._held: list[tuple[Contribution, bytes]] = []
        """Updates whose bodies are to be kept, and are still in memory."""
        self._oldest_at: float | None = None
        self._votes: Mapping[Key, Vote] = {}
        self._load()

    def _load(self) -> None:
        committed = self._stores.ledger.accumulated()
        self._committed = committed
        self.num_folded = committed.num_folded if committed else 0
        self._go_on_weighing(committed)
        self._folded = {_key(update): update for update in self._stores.ledger.folded(self.number)}
        self.accumulator = self._stores.new_accumulator(self._stores.encoding.folded)
        if committed is not None:
            self.accumulator.load(self._stores.directory, committed)
        are_masked = self._stores.are_masked
        self._directions = Directions(() if are_masked else self._stores.encoding.folded, self._stores.stepped)
        self._directions.are_all_there = not self.num_folded and not are_masked

    def _go_on_weighing(self, committed: Accumulated | None) -> None:
        """A start may have other settings than the one before: they hold from the next round on."""
        if committed is None or committed.weighting is None:
            return
        before = replace(
            self.weigher, weighting=Weigher.parse(committed.weighting).weighting, clip_norm=committed.clip_norm
        )
        if before != self.weigher:
            self.weigher = before
            log.info("round %d goes on with --weighting %s, which its updates were folded with", self.number, before)

    @property
    def counting(self) -> list[FoldedUpdate]:
        """The updates in it, committed or not, by base round and worker; once judged, without those outvoted."""
        return [self._folded[key] for key in sorted(self._folded.keys() - self._out)]

    @property
    def _out(self) -> set[tuple[int, str]]:
        """Those outvoted."""
        return {(key.base_round, key.worker) for key, vote in self._votes.items() if vote.is_outvoted}

    @property
    def num_samples(self) -> int:
        """How many samples the updates in it were trained on, as far as they count."""
        out = self._out
        counting = (update for key, update in self._folded.items() if key not in out)
        return sum(self.weigher.counted_samples(update.num_samples) for update in counting)

    # -- deciding -------------------------------------------------------------------------------------------

    def known(self, contribution: Contribution) -> dict[str, str]:
        """Worker -> instance, for those of its updates that are in already, committed or not."""
        base_round = contribution.base_round
        found = {claim.worker: self._instance_of(base_round, claim.worker) for claim in contribution.claims}
        return {worker: instance for worker, instance in found.items() if instance is not None}

    def _instance_of(self, base_round: int, worker: str) -> str | None:
        if base_round == self.number and (base_round, worker) not in self._folded:
            return None  # no earlier round had this model, and so there is nothing in the ledger
        return self._instances.get((base_round, worker)) or self._stores.ledger.is_folded(base_round, worker)

    def known_answer(self, answer: ReceivedAnswer) -> str | None:
        """The instance of an update or answer with the same key that is in already; None if there is none."""
        key = (answer.head.round, answer.head.worker)
        found = self._instance_of(*key) or self._answers.get(key)
        return found or self._stores.ledger.is_answered(*key, answer.verdict)

    def take_answer(self, answer: ReceivedAnswer, decision: AnswerDecision, delivery: Delivery) -> None:
        """Remembers what was decided on an answer until the commit."""
        head = answer.head
        if isinstance(decision, Excuse):
            self._answers[head.round, head.worker] = head.instance
            if head.round == self.number:
                self.excused[head.worker] = head.reason
        row = answer.row(decision, received_at=time.time(), round_number=self.number)
        if row is not None:
            self._add_row(row if self._stores.tells_of_sites else row.untold, is_answer=True)
        self._deliveries.append(delivery)
        self._start_waiting()

    def take(self, contribution: Contribution, decision: Decision, delivery: Delivery, body: Body) -> None:
        """Carries the decision out and remembers it until the commit. A refusal is an UnfitMessage.

        After an UnfitMessage the round is as it was before.
        """
        received_at = time.time()
        match decision:
            case Fold():
                self.fold(contribution, decision, delivery, body, received_at=received_at)
            case Late():
                self._pass_over(contribution, Verdict.LATE, decision, delivery, received_at=received_at)
            case Duplicate():
                self._pass_over(contribution, Verdict.DUPLICATE, decision, delivery, received_at=received_at)
            case Unselected():
                self._pass_over(contribution, Verdict.UNSELECTED, decision, delivery, received_at=received_at)
            case Refuse():
                raise UnfitMessage(decision.reason)
            case _:
                assert_never(decision)

    def fold(
        self, contribution: Contribution, decision: Fold, delivery: Delivery, body: Body, *, received_at: float
    ) -> None:
        """Adds all of its updates to the accumulator."""
        begun_at = time.perf_counter()
        norm = self._add(contribution, body, decision.weights)
        if self._stores.keeps_bodies and contribution.shard is None:
            self._keep(contribution, body)
        fold_s = (time.perf_counter() - begun_at) / len(contribution.claims)
        self.num_folded += len(contribution.claims)
        if self._stores.are_masked:
            self._seeds += map(_seeds_of, contribution.claims)
        rows = []
        for claim, weight, base in zip(contribution.claims, decision.weights, decision.base_weights, strict=True):
            self._instances[contribution.base_round, claim.worker] = claim.instance
            if contribution.base_round == self.number:
                self.excused.pop(claim.worker, None)
            row = self._row_of(
                contribution,
                claim,
                Verdict.FOLDED,
                received_at=received_at,
                weight=weight,
                base_weight=base,
                norm=norm,
            )
            self._folded[contribution.base_round, claim.worker] = FoldedUpdate(
                base_round=contribution.base_round,
                worker=claim.worker,
                staleness=decision.staleness,
                num_samples=claim.num_samples,
                weight=weight,
                base_weight=base,
                norm=norm,
                figures=row.figures,
                is_fresh=row.is_fresh,
            )
            rows.append(row)
        self._remember(contribution, rows, delivery, fold_s=fold_s)

    def _add(self, contribution: Contribution, body: Body, weights: Sequence[float]) -> float | None:
        """Adds it to the accumulator; returns the norm of a single update. After an UnfitMessage nothing is in."""
        if contribution.shard is not None or self._stores.are_masked:
            add_to(self.accumulator, contribution, body, weights)
            self._directions.are_all_there = False  # nothing shows which way each update goes
            return None
        self._directions.begin()
        length = None if self._most_norm is None else Length(self._stores.encoding.folded)

        def look_at(offset: int, piece: Buffer) -> None:
            self._directions.add(offset, piece)
            if length is not None:
                length.add(offset, piece)

        add_to(self.accumulator, contribution, body, weights, look_at=look_at)
        norm = self._directions.end(_key_of(contribution), weights[0])
        try:
            _check_norm(contribution, norm)
            if length is not None and self._most_norm is not None:
                length.check(self._most_norm)
        except UnfitMessage:
            self._directions.take_out(_key_of(contribution))
            take_out_of(self.accumulator, contribution, body, weights)
            raise
        return norm

    def _keep(self, update: Contribution, body: Body) -> None:
        pieces = (piece for _, piece in body.pieces())
        num_held = sum(len(held) for _, held in self._held)
        if update.blob_name is None and num_held + update.head.num_bytes <= _HELD_BYTES:
            self._held.append((update, b"".join(pieces)))
        else:
            self._write(update, pieces, take_name=body.take_name)

    def _write_held(self) -> None:
        for update, body in self._held:
            self._write(update, (body,))
        self._held = []

    def _write(
        self,
        update: Contribution,
        pieces: Iterable[Buffer],
        *,
        take_name: Callable[[Path], bool] = lambda path: False,
    ) -> None:
        """Keeps the body of an update in a file, if there is room."""
        encoding = self._stores.encoding
        needed = num_bytes_of(encoding.encoded) + _ROOM_IN_SUMS * encoding.sum_bytes
        if not self._stores.bodies.has_room(needed):
            if not self._is_short_of_room:
                self._is_short_of_room = True
                log.warning(
                    "round %d: the disk is nearly full, and bodies of updates are not kept any more: if their workers"
                    " leave, they still count in this round",
                    self.number,
                )
            return
        in_clear = update.seal is None and not update.is_zstd
        known = update.head.blake3 if in_clear else None
        file, blake3 = self._stores.bodies.write(self.number, pieces, blake3=known, take_name=take_name)
        keys, (claim,) = update.signer.keys if update.signer else (), update.claims
        self._kept.append(
            KeptBody(base_round=update.base_round, worker=claim.worker, file=file, blake3=blake3, keys=keys)
        )

    def _pass_over(
        self,
        contribution: Contribution,
        verdict: Verdict,
        decision: Late | Duplicate | Unselected,
        delivery: Delivery,
        *,
        received_at: float,
    ) -> None:
        rows = [
            self._row_of(contribution, claim, verdict, received_at=received_at, reason=decision.reason)
            for claim in decision.claims
        ]
        self._remember(contribution, rows, delivery)

    def _row_of(
        self, contribution: Contribution, claim: Claim, verdict: Verdict, *, received_at: float, **more: Any
    ) -> UpdateRow:
        """The row of one of its updates, with ``more`` of its fields."""
        row = row_of(
            claim,
            verdict,
            base_round=contribution.base_round,
            received_at=received_at,
            round_number=self.number,
            num_bytes=contribution.size_of(claim),
            **more,
        )
        return row if self._stores.tells_of_sites else row.untold

    def _remember(
        self, contribution: Contribution, rows: Sequence[UpdateRow], delivery: Delivery, *, fold_s: float | None = None
    ) -> None:
        """Remembers until the commit: ledger rows, a delivery to ack, a blob to delete."""
        for row in rows:
            self._add_row(row, fold_s=fold_s, shard=contribution.shard)
        if rows and contribution.shard is not None:
            self._emit_sum(contribution, contribution.shard, rows[0].verdict)
        self._deliveries.append(delivery)
        self._start_waiting()
        if contribution.blob_name is not None:
            self._blobs.append(contribution.blob_name)

    def _emit_sum(self, contribution: Contribution, shard: int, verdict: Verdict) -> None:
        claims = contribution.claims
        num_samples = sum(claim.num_samples for claim in claims) if self._stores.tells_of_sites else None
        self._stores.on_event(
            SumDecided(
                shard=shard,
                round=contribution.base_round,
                num_updates=len(claims),
                num_samples=num_samples,
                verdict=verdict,
            )
        )

    def refused(self, row: UpdateRow) -> None:
        """Remembers that a message was set aside."""
        self._add_row(row)

    def _add_row(
        self, row: UpdateRow, *, fold_s: float | None = None, shard: int | None = None, is_answer: bool = False
    ) -> None:
        self._rows.append(row)
        self._stores.on_event(UpdateDecided(row=row, fold_s=fold_s, shard=shard, is_answer=is_answer))
        self._start_waiting()

    def _start_waiting(self) -> None:
        if self._oldest_at is None:
            self._oldest_at = self._stores.clock()

    # -- committing -----------------------------------------------------------------------------------------

    @property
    def num_pending(self) -> int:
        """The number of deliveries that wait for a commit before they are acked."""
        return len(self._deliveries)

    @property
    def oldest_at(self) -> float | None:
        """Since when anything has waited for a commit; None if nothing does."""
        return self._oldest_at

    def commit(self, *, num_present: int = 0, num_chosen: int = 0) -> None:
        """Makes durable what was decided and how many workers are present, and chosen; then acks the deliveries."""
        if self._oldest_at is None:
            return
        begun_at = time.perf_counter()
        accumulated = self._committed
        if accumulated is None or accumulated.num_folded != self.num_folded:
            accumulated = self._save() if self.num_folded else None
        self._write_held()
        self._stores.ledger.commit(
            self._rows,
            accumulated,
            kept=self._kept,
            seeds=self._seeds,
            num_present=num_present,
            num_chosen=num_chosen,
        )
        self._committed = accumulated
        self._emit_committed(begun_at)
        self._settle()
        self._remove_old_sums()

    def freeze(self, by: ClosedBy, *, run_id: str, charge: Callable[[str], Charge] | None = None) -> Frozen:
        """Commits, then records that the set of its updates is decided, and what ``charge`` makes of the sum's digest.

        Of masked updates, the digest is that of the set: their sum is different each time.
        """
        self.commit()
        if self._stores.are_masked:
            masked = [(each.worker, each.masked_sha256) for each in self._stores.ledger.seeds(self.number)]
            sha256 = digest_of_set(run_id, self.number, masked)
        else:
            assert self._committed is not None
            sha256 = self._committed.sha256
        frozen = Frozen(round=self.number, by=by, set_sha256=sha256)
        self._stores.ledger.freeze(frozen, None if charge is None else charge(sha256))
        return frozen

    def _remove_old_sums(self) -> None:
        needed = {*self.accumulator.files(), *self._given}
        needed |= {self._committed.file} if self._committed else set()
        self._stores.directory.remove_sums(self._stores.epoch, but=needed)

    @property
    def _given(self) -> set[str]:
        """The file with the sum of the round before, which may be needed once more until this one is closed."""
        file = self._stores.ledger.given_file()
        return set() if file is None else {file}

    def _save(self) -> Accumulated:
        name = f"sum-{self._stores.epoch}-{self.number:05d}-{self.num_folded}.safetensors"
        return Accumulated(
            file=name,
            sha256=self.accumulator.save(self._stores.directory, name),
            bound=self.accumulator.bound,
            num_folded=self.num_folded,
            num_samples=self.num_samples,
            weighting=str(self.weigher),
            clip_norm=self.weigher.clip_norm,
        )

    # -- taking updates out again ---------------------------------------------------------------------------

    def folded(self) -> list[FoldedUpdate]:
        """The updates that count, once all are committed."""
        return self._stores.ledger.folded(self.number)

    def withdraw(self, updates: Mapping[FoldedUpdate, str]) -> None:
        """Takes updates whose bodies are kept out, each for its reason, as if they had never been in.

        All must be committed, and nothing else may be pending. A DamagedFile if a body is not what was kept; then none
        of them is out.
        """
        bodies = {update: update.kept for update in updates if update.kept is not None}
        for body in bodies.values():
            self._stores.bodies.check(body.file, body.blake3)
        for update, body in bodies.items():
            self._take_out(update, body)
        accumulated = self._save() if self.num_folded else None
        self._stores.ledger.withdraw(updates, accumulated)
        self._committed = accumulated
        for update, reason in updates.items():
            self._emit_withdrawn(update, reason)
        self._stores.bodies.remove(body.file for body in bodies.values())
        self._remove_old_sums()

    def _take_out(self, update: FoldedUpdate, body: KeptBody) -> None:
        for offset, piece in self._stores.encoding.folded_from(self._stores.bodies.pieces(body.file)):
            self.accumulator.remove(offset, piece, update.weight)
        key = Key(update.base_round, update.worker)
        self.accumulator.end_removal(key)
        self._directions.take_out(key)
        self.num_folded -= 1
        del self._folded[_key(update)]

    def _emit_withdrawn(self, update: FoldedUpdate, reason: str) -> None:
        num_samples = update.num_samples if self._stores.tells_of_sites else None
        self._stores.on_event(
            UpdateWithdrawn(round=update.base_round, worker=update.worker, num_samples=num_samples, reason=reason)
        )

    # -- closing --------------------------------------------------------------------------------------------

    def judge(self) -> None:
        """Has a robust rule look at all updates, before the next model is made; TooFew if there are too few."""
        self._votes = self.accumulator.judge(self._stores.stepped)

    @property
    def outvoted(self) -> dict[str, float]:
        """Worker -> score, of those whose updates are left out."""
        return {key.worker: vote.score for key, vote in self._votes.items() if vote.is_outvoted}

    def close(
        self,
        result: RoundResult,
        *,
        next_round: int | None,
        next_draws: Sequence[Draw] = (),
        next_num_chosen: int = 0,
        install: Callable[[], None],
        num_present: int = 0,
    ) -> list[int]:
        """Commits the end of the round; ``install`` puts its model, already on the disk, in its place.

        What is said of the next round is as ``Ledger.close_round`` takes it.

        Returns the earlier rounds whose models the workers have now measured.
        """
        begun_at = time.perf_counter()
        cosines = {(key.base_round, key.worker): cosine for key, cosine in self._directions.cosines().items()}
        votes = {(key.base_round, key.worker): vote for key, vote in self._votes.items()}
        measured = self._stores.ledger.close_round(
            self.number,
            self._rows,
            replace(result, cosines=cosines, votes=votes),
            next_round=next_round,
            next_draws=next_draws,
            next_num_chosen=next_num_chosen,
            install=install,
            num_present=num_present,
        )
        self._emit_committed(begun_at)
        return measured

    def close_evaluation(self, result: RoundResult | None) -> None:
        """Commits what the sites measured of the last model, and acks; a ``result`` becomes the base round's row."""
        begun_at = time.perf_counter()
        self._stores.ledger.close_evaluation(self.number - 1, self._rows, result)
        self._emit_committed(begun_at)
        self._settle()

    def _emit_committed(self, begun_at: float) -> None:
        self._stores.on_event(Committed(rows=tuple(self._rows), seconds=time.perf_counter() - begun_at))

    def settle(self) -> None:
        """Acks, and frees what the round needed, once its end is committed and its events are out."""
        self._settle()
        self._stores.directory.remove_sums(self._stores.epoch, but=self._given)
        self._stores.bodies.remove_all()

    def _settle(self) -> None:
        transport = self._stores.transport
        transport.delete_blobs(self._blobs)  # before the acks: after a kill in between, nothing would name them
        if self._deliveries:
            transport.ack(self._deliveries)
        self._rows, self._deliveries, self._blobs, self._kept, self._held = [], [], [], [], []
        self._seeds = []
        self._instances.clear()
        self._answers.clear()
        self._oldest_at = None


def _seeds_of(claim: Claim) -> MaskSeeds:
    """What keepers need of a masked update: its signed seed names the digest of its body."""
    masked = decode_from(claim.seeds[0], SealedSeed, trust=Believing()).header
    return MaskSeeds(
        base_round=masked.round, worker=claim.worker, masked_sha256=masked.masked_sha256, seeds=claim.seeds
    )


def _check_norm(contribution: Contribution, norm: float | None) -> None:
    """An UnfitMessage if an update says another norm of itself than it has: its weight went by that."""
    said = contribution.claims[0].figures.get("norm")
    if said is None:
        return
    if norm is None or abs(said - norm) > _NORM_TOLERANCE * max(said, norm):
        raise UnfitMessage(
            f"it says that its norm is {said:g}, and it is {'beyond float32' if norm is None else f'{norm:g}'}"
        )


def _key(update: FoldedUpdate) -> tuple[int, str]:
    return update.base_round, update.worker
