"""What the open round holds: the exact sum, and what was decided since the last commit.

The commit rule, the only one that neither loses nor doubles:
1. an update is folded only if its key is neither committed nor pending;
2. a commit writes the sum to a new file, then, in one transaction, names that file together with the updates in it;
3. only then are their blobs deleted and the updates acked; one that comes again is known by its key.
"""

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace

from aggregator.events import Committed, UpdateDecided, Watcher, unwatched
from aggregator.rounds.exact_sum import ExactSum
from aggregator.rounds.fold_kernel import Kernel
from aggregator.rounds.intake import Update
from aggregator.rounds.partial_sum import PartialSum
from aggregator.state import Accumulated, Ledger, RoundResult, StateDirectory, UpdateRow, Verdict
from broker import Delivery, Transport
from broker.wire import Buffer, Specs, limb_bytes_of, num_bytes_of
from console import BlobLost, UnfitMessage, told

Piece = tuple[int, Buffer]
"""(offset, bytes) within what is added."""


class OpenRound:
    """The round that updates are folded into. Made anew for each round, and from the last commit on a start."""

    def __init__(
        self,
        number: int,
        *,
        epoch: int,
        directory: StateDirectory,
        ledger: Ledger,
        transport: Transport,
        specs: Specs,
        kernel: Kernel | None = None,
        clock: Callable[[], float] = time.monotonic,
        tell: Watcher = unwatched,
    ) -> None:
        self.number = number
        self._epoch = epoch
        self._directory, self._ledger, self._transport = directory, ledger, transport
        self._specs, self._kernel = specs, kernel
        self._clock = clock
        self._tell = tell
        self._rows: list[UpdateRow] = []
        self._keys: dict[tuple[int, str], str] = {}
        self._deliveries: list[Delivery] = []
        self._blobs: list[str] = []
        self._oldest_at: float | None = None
        self._is_spoiled = False
        self._load()

    def _load(self) -> None:
        committed = self._ledger.accumulated()
        self._committed = committed
        self.num_folded = committed.num_folded if committed else 0
        self.total = committed.num_samples if committed else 0
        self.sum = ExactSum(self._specs, kernel=self._kernel)
        if committed is not None:
            self._directory.load_sum(committed.file, committed.sha256, self.sum.limbs())
            self.sum.bound = committed.bound

    # -- deciding -------------------------------------------------------------------------------------------

    def instance_of(self, base_round: int, worker: str) -> str | None:
        """The instance whose update with this key is in, committed or not; None if there is none."""
        return self._keys.get((base_round, worker)) or self._ledger.is_folded(base_round, worker)

    def fold(self, update: Update, delivery: Delivery, row: UpdateRow, *, weight: float, base_weight: int) -> None:
        """Adds an update to the sum. After an UnfitMessage or BlobLost, half of it may be in: then ``mend`` it."""
        begun_at = time.perf_counter()
        pieces = update.pieces(self._transport)
        if update.head.blob is not None:
            pieces = self._told(pieces, f"update of {update.head.worker}", num_bytes_of(self._specs))
        self._add(pieces, lambda offset, piece: self.sum.add(offset, piece, weight))
        fold_s = time.perf_counter() - begun_at
        self.num_folded += 1
        self.total += base_weight
        self._keys[update.head.key] = update.head.instance
        self._note([replace(row, num_bytes=update.num_wire_bytes)], delivery, blob=update.blob_name, fold_s=fold_s)

    def fold_partial(self, partial: PartialSum, delivery: Delivery, rows: list[UpdateRow], *, base_weight: int) -> None:
        """Adds a partial sum: all of its updates, which have these rows. Fails as ``fold`` does."""
        bound = partial.head.bound
        pieces = partial.pieces(self._transport)
        if partial.head.blob is not None:
            pieces = self._told(pieces, f"sum of shard {partial.head.shard}", limb_bytes_of(self._specs))
        begun_at = time.perf_counter()
        self._add(pieces, lambda offset, piece: self.sum.add_limbs(offset, piece, bound=bound))
        fold_s = (time.perf_counter() - begun_at) / max(1, len(rows))
        self.num_folded += len(rows)
        self.total += base_weight
        for update in partial.head.updates:
            self._keys[partial.head.round, update.worker] = update.instance
        self._note(rows, delivery, blob=partial.blob_name, fold_s=fold_s)

    def _told(self, pieces: Iterator[Piece], what: str, total_bytes: int) -> Iterator[Piece]:
        return told(
            pieces,
            self._tell,
            what=what,
            is_upload=False,
            total_bytes=total_bytes,
            size_of=lambda piece: memoryview(piece[1]).nbytes,
        )

    def _add(self, pieces: Iterator[Piece], add: Callable[[int, Buffer], None]) -> None:
        begun = False
        try:
            for offset, piece in pieces:
                add(offset, piece)
                begun = True
        except (UnfitMessage, BlobLost):
            self._is_spoiled = begun
            raise
        self.sum.end_update()

    def note(self, row: UpdateRow | None, delivery: Delivery | None, *, blob: str | None = None) -> None:
        """Remembers a decision until the commit: a ledger row, a delivery to ack, a blob to delete."""
        self._note([] if row is None else [row], delivery, blob=blob)

    def _note(
        self, rows: Iterable[UpdateRow], delivery: Delivery | None, *, blob: str | None, fold_s: float | None = None
    ) -> None:
        for row in rows:
            self._rows.append(row)
            self._tell(UpdateDecided(row=row, fold_s=fold_s))
        if delivery is not None:
            self._deliveries.append(delivery)
        if blob is not None:
            self._blobs.append(blob)
        if self._oldest_at is None:
            self._oldest_at = self._clock()

    def mend(self) -> None:
        """Goes back to the last commit if half an update is in the sum; what came after it is delivered again.

        The broken update itself must be off the queue by then.
        """
        if not self._is_spoiled:
            return
        self._is_spoiled = False
        self._rows = [row for row in self._rows if row.verdict is Verdict.REFUSED]
        self._keys.clear()
        self._deliveries.clear()
        self._blobs.clear()
        self._load()
        self._transport.give_back()

    # -- committing -----------------------------------------------------------------------------------------

    @property
    def num_pending(self) -> int:
        """Deliveries that wait for a commit to be acked."""
        return len(self._deliveries)

    @property
    def oldest_at(self) -> float | None:
        """Since when something waits for a commit."""
        return self._oldest_at

    def commit(self, *, num_present: int = 0) -> None:
        """Makes durable what was decided, and how many workers are there; then acks it."""
        if self._oldest_at is None:
            return
        begun_at = time.perf_counter()
        accumulated = self._committed
        if accumulated is None or accumulated.num_folded != self.num_folded:
            accumulated = self._write_sum() if self.num_folded else None
        self._ledger.commit(self._rows, accumulated, num_present=num_present)
        self._committed = accumulated
        self._tell_committed(begun_at)
        self._settle()
        self._directory.remove_sums(self._epoch, but=accumulated.file if accumulated else None)

    def _write_sum(self) -> Accumulated:
        name = f"sum-{self._epoch}-{self.number:05d}-{self.num_folded}.safetensors"
        return Accumulated(
            file=name,
            sha256=self._directory.save_sum(name, self.sum.limbs()),
            bound=self.sum.bound,
            num_folded=self.num_folded,
            num_samples=self.total,
        )

    def close(
        self, result: RoundResult, *, next_round: int | None, install: Callable[[], None], num_present: int = 0
    ) -> None:
        """Commits the end of the round; ``install`` puts its model, which is on the disk already, in its place."""
        begun_at = time.perf_counter()
        self._ledger.close_round(
            self.number, self._rows, result, next_round=next_round, install=install, num_present=num_present
        )
        self._tell_committed(begun_at)

    def _tell_committed(self, begun_at: float) -> None:
        self._tell(Committed(rows=tuple(self._rows), seconds=time.perf_counter() - begun_at))

    def settle(self) -> None:
        """After the end of the round is committed and told: acks, and frees what it needed."""
        self._settle()
        self._directory.remove_sums(self._epoch)

    def _settle(self) -> None:
        self._transport.delete_blobs(self._blobs)  # before the acks: nothing would tell of them after a kill in between
        if self._deliveries:
            self._transport.ack(self._deliveries)
        self._rows, self._deliveries, self._blobs = [], [], []
        self._keys.clear()
        self._oldest_at = None
