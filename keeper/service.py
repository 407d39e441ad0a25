"""The keeper: opens the seeds of masks, and gives the sum of all masks of a round, once.

It never sees a model or an update. ``step()`` handles one message; ``run()`` goes on until it is stopped. For each
request: look at every seed, decide, expand; then one transaction, which decides again and charges; then noise; then the
answer, confirmed by the broker; then the ack. Killed anywhere, it gets the request again: before the transaction it is
the first time, after it the same sum is made again, bit for bit.
"""

import hashlib
import logging
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from broker import Delivery, Source, Transport
from broker.wire import KeeperRequest, decode_from
from console import IDLE_BEAT_S, BrokerUnreachable, ForgedMessage, MessageError, UnfitMessage, malloc
from keeper.answers import Answers
from keeper.config import KeeperConfig
from keeper.decisions import Asked, Decisions
from keeper.events import Charged, Expanded, Released, Serving, Watcher, Withholding, unwatched
from keeper.expanding import MaskSum, Sizes
from keeper.ledger import Ledger
from keeper.rules import Granted, Refused
from keeper.seeds import claimed_in
from privacy import Budget, GaussianNoise, count_draw, release_key

log = logging.getLogger(__name__)

_PREFETCH = 4


class Keeper:
    """One keeper. ``clock`` gives Unix time in seconds; ``beat`` is called while it works and while it waits."""

    def __init__(
        self,
        config: KeeperConfig,
        ledger: Ledger,
        transport: Transport,
        *,
        clock: Callable[[], float] = time.time,
        on_event: Watcher = unwatched,
        beat: Callable[[], None] = lambda: None,
    ) -> None:
        self._config, self._ledger, self._transport = config, ledger, transport
        self._on_event, self._beat = on_event, beat
        self._decisions = Decisions(config, ledger, clock)
        self._answers = Answers(config, transport, on_event)
        self._ahead: _Ahead | None = None
        """The masks of the round that was asked about last."""
        self._is_stopping = False

    # -- the loop -------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Waits for the aggregator's queues, and begins to receive."""
        terms, number = self._config.terms, self._ledger.num_releases()
        log.info(
            "keeper %s: sums of at least %d sites, %s; %s",
            terms.name,
            terms.min_sites,
            "without noise" if terms.noise is None else f"with noise of {terms.noise.multiplier:g} times the clip",
            "a new ledger" if self._ledger.is_blank() else f"{number} sums given before",
        )
        if terms.noise is not None and self._ledger.num_without_noise():
            log.warning("%d sums were given without noise, which no budget covers", self._ledger.num_without_noise())
        self._on_event(Serving(num_releases=number, min_sites=terms.min_sites))
        self._tell_of_budget()
        self._transport.declare()
        self._transport.listen(Source.UPDATES, prefetch=_PREFETCH)

    def run(self) -> None:
        """Steps until ``stop`` is called; what is not answered by then goes back onto the queue."""
        while not self._is_stopping:
            self._beat()
            try:
                self.step(IDLE_BEAT_S)
            except BrokerUnreachable:
                if not self._is_stopping:
                    raise

    def stop(self) -> None:
        """Ends ``run`` soon, if need be in the middle of an expansion. May be called from a signal handler."""
        self._is_stopping = True
        self._transport.give_up_waiting()
        self._transport.wake()

    @property
    def is_stopping(self) -> bool:
        """Whether ``stop`` was called."""
        return self._is_stopping

    def close(self) -> None:
        """Leaves the queue."""
        self._ahead = None
        self._transport.close()

    def step(self, timeout_s: float | None = 0.0) -> bool:
        """Handles the next message if one comes within ``timeout_s``; True if one came."""
        delivery = self._transport.receive(timeout_s)
        if delivery is None:
            return False
        if self._take(delivery):
            self._transport.ack([delivery])
        if self._ahead is None:
            malloc.give_back()
        return True

    def _take(self, delivery: Delivery) -> bool:
        """Answers what is asked; False if it was stopped before it could."""
        begun_at = time.perf_counter()
        try:
            request, asker, payload = self._read(delivery)
        except MessageError as error:
            log.warning("a message is dropped: %s", error)
            return True
        try:
            asked = Asked(request, asker, claimed_in(payload))
            refused = self._decisions.admit(request)
            if refused is None:
                return (self._take_offer if request.is_offer else self._take_request)(asked, begun_at)
        except MessageError as error:
            refused = Refused(str(error))
        self._withhold(request, asker, refused)
        return True

    def _read(self, delivery: Delivery) -> tuple[KeeperRequest, str, memoryview]:
        """The request, who asks, and the seeds. A MessageError if nobody who may asks this keeper for it."""
        message = decode_from(delivery.body, KeeperRequest, trust=self._config.membership.trust)
        request = message.header
        if message.signer is None:
            raise ForgedMessage("the request is not signed")
        if request.keeper != self._config.name:
            raise UnfitMessage(f"{message.signer} asks keeper {request.keeper}, and this is {self._config.name}")
        if hashlib.sha256(message.payload).hexdigest() != request.seeds_sha256:
            raise UnfitMessage(f"the seeds of {message.signer}'s request were changed on their way")
        return request, str(message.signer), message.payload

    # -- ahead of the request -------------------------------------------------------------------------------

    def _take_offer(self, asked: Asked, begun_at: float) -> bool:
        """Checks seeds, and expands them, so that less is left to do when the sum is asked for."""
        request = asked.request
        if self._ledger.charged(request.run_id, request.round) is not None:
            return True
        ahead = self._ahead_of(request)
        found = self._decisions.on_offer(asked, ahead.opened)
        wanted = {seed.sha256: ahead.opened[seed.sha256] for seed in found.seeds}
        if not ahead.masks.add(wanted, goes_on=self._goes_on):
            self._ahead = None
            return False
        num_masks, seconds = len(ahead.masks.known), time.perf_counter() - begun_at
        log.debug("round %3d: %d masks expanded ahead, in %.2f s", request.round, num_masks, seconds)
        self._on_event(Expanded(request.run_id, request.round, num_masks, seconds))
        if isinstance(found.verdict, Refused):
            self._withhold(request, asked.asker, found.verdict)
        return True

    def _ahead_of(self, request: KeeperRequest) -> "_Ahead":
        """The masks of this request's round; those of another round are forgotten, so there is one sum at a time.

        An UnfitMessage if there is no memory for it.
        """
        key = (request.run_id, request.round, Sizes(request.num_words, request.num_halves))
        if self._ahead is None or self._ahead.key != key:
            self._ahead = None
            num_bytes = key[2].num_bytes
            if num_bytes > _memory_bytes():
                raise UnfitMessage(f"a sum of {num_bytes:,} bytes does not fit into the keeper's memory")
            self._ahead = _Ahead(key, MaskSum(key[2]))
        return self._ahead

    # -- the request ----------------------------------------------------------------------------------------

    def _take_request(self, asked: Asked, begun_at: float) -> bool:
        ahead = self._ahead_of(asked.request)
        found = self._decisions.on_request(asked, ahead.opened)
        verdict = found.verdict
        if isinstance(verdict, Granted):
            wanted = {claimed.sha256: ahead.opened[claimed.sha256] for claimed in asked.claimed}
            if not ahead.masks.hold(wanted, goes_on=self._goes_on):
                self._ahead = None
                return False
            verdict = self._decisions.charge(asked, found.seeds)
        if isinstance(verdict, Refused):
            self._withhold(asked.request, asked.asker, verdict)
        else:
            self._ahead = None
            self._release(asked, verdict, ahead.masks, begun_at)
        return True

    def _release(self, asked: Asked, granted: Granted, masks: MaskSum, begun_at: float) -> None:
        request = asked.request
        masks.noised(self._noise(request, granted), apart=self._noise_of_count(request, granted))
        num_bytes = self._answers.release(request, granted, masks)
        seconds = time.perf_counter() - begun_at
        log.info(
            "round %3d: gave %s the sum of %d masks of %d sites%s, in %.2f s",
            request.round,
            asked.asker,
            granted.num_updates,
            granted.num_sites,
            " once more" if granted.is_repeat else "",
            seconds,
        )
        self._on_event(
            Released(
                run_id=request.run_id,
                round=request.round,
                num_updates=granted.num_updates,
                num_sites=granted.num_sites,
                noise=granted.noise,
                is_repeat=granted.is_repeat,
                num_bytes=num_bytes,
                seconds=seconds,
            )
        )
        self._tell_of_budget()

    def _noise(self, request: KeeperRequest, granted: Granted) -> GaussianNoise | None:
        if granted.sigma is None:
            return None
        key = release_key(
            self._ledger.noise_secret,
            run_id=request.run_id,
            round_number=request.round,
            digest=bytes.fromhex(request.set_sha256),
        )
        return GaussianNoise(key, granted.sigma)

    def _noise_of_count(self, request: KeeperRequest, granted: Granted) -> tuple[int, int] | None:
        """Which integer says how many updates were within an adaptive clip, and its noise; None if there is none."""
        if granted.within_at is None or granted.count_sigma is None:
            return None
        draw = count_draw(
            self._ledger.noise_secret,
            run_id=request.run_id,
            round_number=request.round,
            digest=bytes.fromhex(request.set_sha256),
            sigma=granted.count_sigma,
        )
        return granted.within_at, draw

    # -- what is said ---------------------------------------------------------------------------------------

    def _withhold(self, request: KeeperRequest, asker: str, refused: Refused) -> None:
        what = "an offer" if request.is_offer else "the sum"
        number, run_id = request.round, request.run_id
        log.warning("round %3d of run %s: %s asked by %s: %s", number, run_id, what, asker, refused.reason)
        self._answers.withhold(request, refused)
        self._on_event(Withholding(run_id, number, asker, refused.reason, refused.is_final))

    def _tell_of_budget(self) -> None:
        noise = self._config.noise
        if noise is not None:
            charges = self._ledger.noises()
            budget = Budget(1.0, noise.multiplier, noise.epsilon, noise.delta, noise.spent_mu2, charges)
            self._on_event(Charged(budget.epsilon_so_far, noise.delta, budget.releases_left))

    def _goes_on(self) -> bool:
        self._beat()
        return not self._is_stopping


def _memory_bytes() -> int:
    """Of this machine."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


@dataclass(slots=True)
class _Ahead:
    """What was made ready for one round."""

    key: tuple[str, int, Sizes]
    masks: MaskSum
    opened: dict[str, bytes] = field(default_factory=dict)
    """Digest of a seed's message -> the seed."""
