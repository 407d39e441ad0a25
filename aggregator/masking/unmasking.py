"""A frozen round on its way to its sum: what each keeper is asked for, and what has come.

Once a round's set is decided, no update is added to it and none is taken out. Each keeper is asked for the sum of the
masks of exactly this set, and asked again at each start: the same set has the same answer. Nothing of that is written
to the disk, so a kill at any point leaves the round frozen, with its masks on.
"""

import hashlib
import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from aggregator.bodies import Body
from aggregator.masking.answers import Released
from aggregator.masking.ring_sum import RingSum
from aggregator.state import ClosedBy, Frozen, MaskSeeds
from broker import Transport
from broker.wire import KeeperRequest, Masking, Specs, Trust, Withheld, encode, mask_sizes, packed_seeds
from console import some_of

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Keepers:
    """How the keepers of a run are reached."""

    masking: Masking
    run_id: str
    specs: Specs
    """Of masked updates."""
    transport: Transport
    trust: Trust
    wait_s: float | None
    """How long a round waits for them once it is frozen; None: for ever."""

    def ask(self, round_number: int, seeds: Iterable[MaskSeeds], set_sha256: str, *, is_offer: bool = False) -> None:
        """Asks each for the masks of the updates with these seeds, or only offers these to it."""
        ordered = sorted(seeds, key=lambda each: each.worker)
        num_words, num_halves = mask_sizes(self.specs)
        for index, keeper in enumerate(self.masking.keepers):
            payload = packed_seeds([each.seeds[index] for each in ordered])
            request = KeeperRequest(
                run_id=self.run_id,
                round=round_number,
                keeper=keeper,
                is_offer=is_offer,
                num_words=num_words,
                num_halves=num_halves,
                set_sha256=set_sha256,
                seeds_sha256=hashlib.sha256(payload).hexdigest(),
            )
            self.transport.send_request(encode(request, payload, trust=self.trust), keeper=keeper)


class Unmasking:
    """One frozen round. Its time runs from its construction."""

    def __init__(self, frozen: Frozen, total: RingSum, keepers: Keepers, *, clock: Callable[[], float]) -> None:
        self.frozen = frozen
        self._total, self._keepers, self._clock = total, keepers, clock
        self._given: dict[str, float] = {}
        """Keeper -> the standard deviation of the noise in what it gave, in steps."""
        self._reason: str | None = None
        self._ends_at = None if keepers.wait_s is None else clock() + keepers.wait_s

    def ask(self, seeds: Iterable[MaskSeeds]) -> None:
        """Asks every keeper."""
        self._keepers.ask(self.frozen.round, seeds, self.frozen.set_sha256)
        log.info("round %d is decided, and waits for its masks: %s", self.frozen.round, self.waits_for)

    @property
    def waits_for(self) -> str:
        """Whose answers are missing, in words."""
        missing = [name for name in self._keepers.masking.keepers if name not in self._given]
        return f"keeper{'s' if len(missing) > 1 else ''} {', '.join(missing)}" if missing else "nobody"

    def wants(self, answer: Released | Withheld) -> bool:
        """Whether an answer is about this set, and the first of its keeper."""
        head = answer.head if isinstance(answer, Released) else answer
        is_ours = (head.round, head.set_sha256) == (self.frozen.round, self.frozen.set_sha256)
        return is_ours and head.keeper not in self._given and self._reason is None

    def take(self, released: Released, body: Body) -> None:
        """Takes the masks off. The body is whole, and checked before its first piece."""
        for offset, piece in released.pieces(body):
            self._total.unmask(offset, piece)
        head = released.head
        self._given[head.keeper] = head.noise or 0.0
        log.info(
            "round %d: keeper %s gave the masks of %d updates of %d sites",
            head.round,
            head.keeper,
            head.num_updates,
            head.num_sites,
        )

    def refused(self, answer: Withheld) -> None:
        """A keeper will not give the masks of this set."""
        self._reason = f"keeper {answer.keeper} gives no masks: {answer.reason}{_named(answer.unfit)}"

    @property
    def noise(self) -> float:
        """The standard deviations of all keepers' noise together, in steps: more than that of their sum."""
        return sum(self._given.values())

    @property
    def reason(self) -> str | None:
        """Why the round cannot be closed with its updates; None as long as it can."""
        if self._reason is None and self._ends_at is not None and self._clock() >= self._ends_at:
            self._reason = f"there was no answer of {self.waits_for} for {self._keepers.wait_s:g} s"
        return self._reason

    @property
    def outcome(self) -> ClosedBy | None:
        """How the round is to be closed now; None: it waits."""
        if self.reason is not None:
            return ClosedBy.ABANDONED
        return self.frozen.by if self.is_complete else None

    @property
    def is_complete(self) -> bool:
        """Whether every keeper's masks are off."""
        return self._given.keys() >= set(self._keepers.masking.keepers)

    @property
    def due_at(self) -> float | None:
        """When it has waited for long enough."""
        return self._ends_at


def _named(unfit: Mapping[str, str]) -> str:
    return f" ({some_of([f'{worker}: {why}' for worker, why in unfit.items()], 3)})" if unfit else ""
