"""A keeper's decisions: its rules, asked with what ledger and roster say now, and charges recorded in one step."""

from collections.abc import Callable
from dataclasses import dataclass, field

from broker.wire import KeeperRequest
from console import some_of
from keeper.config import KeeperConfig
from keeper.ledger import Charge, Ledger
from keeper.rules import Granted, Past, Refused, Seed, from_before, judge, misfit
from keeper.seeds import Claimed, Reader

_MOST_NAMED = 3


@dataclass(frozen=True, slots=True)
class Asked:
    """A request whose signature is right."""

    request: KeeperRequest
    asker: str
    claimed: list[Claimed]


@dataclass(frozen=True, slots=True)
class Found:
    """What was said to a request before anything was expanded, and the seeds that count."""

    verdict: Granted | Refused
    seeds: list[Seed] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Decisions:
    """Those of one keeper. ``clock`` gives Unix time in seconds."""

    config: KeeperConfig
    ledger: Ledger
    clock: Callable[[], float]

    def admit(self, request: KeeperRequest) -> Refused | None:
        """Makes the run known; or refuses it, if a ledger that was lost may have known it."""
        with self.ledger.transaction():
            refused = from_before(request, self.config.terms, is_blank=self.ledger.is_blank())
            if refused is None:
                self.ledger.hear_of(request.run_id, request.round, now=self.clock())
        return refused

    def on_offer(self, asked: Asked, opened: dict[str, bytes]) -> Found:
        """Which of these seeds can be used; ``opened`` then has them by the digest of their message."""
        seeds, unfit = self._reader().read_all(asked.request, asked.claimed, opened)
        return Found(_for_want_of(unfit) or Granted(num_sites=0), seeds)

    def on_request(self, asked: Asked, opened: dict[str, bytes]) -> Found:
        """Whether the sum may be given, before anything is charged; ``opened`` likewise.

        For a round that was answered, the seeds are those that were verified then, to the byte: a key that was revoked
        since makes no difference. An UnfitMessage if one of those does not open any more.
        """
        request = asked.request
        past = self._past(request)
        if past.charged is None:
            found = self.on_offer(asked, opened)
            if isinstance(found.verdict, Refused):
                return found
            return Found(judge(request, found.seeds, self.config.terms, past), found.seeds)
        verdict = judge(request, [], self.config.terms, past)
        if isinstance(verdict, Granted):
            for claimed in asked.claimed:
                problem = misfit(request, claimed.head)
                if problem:  # other draws would lie on the same masks: a second noise on one sum
                    worker = claimed.head.worker
                    return Found(
                        Refused(f"asked for what was given, in another form: {worker}: {problem}", is_final=True)
                    )
                opened.setdefault(claimed.sha256, self.config.membership.sealing.open_seed(claimed.head))
        return Found(verdict)

    def charge(self, asked: Asked, seeds: list[Seed]) -> Granted | Refused:
        """Decides once more, and in the same transaction records what is granted for the first time."""
        request = asked.request
        with self.ledger.transaction():
            verdict = judge(request, seeds, self.config.terms, self._past(request))
            if isinstance(verdict, Granted) and not verdict.is_repeat:
                self.ledger.charge(self._row(request, verdict), [seed.head.worker for seed in seeds])
        return verdict

    def _row(self, request: KeeperRequest, granted: Granted) -> Charge:
        return Charge(
            run_id=request.run_id,
            round=request.round,
            set_sha256=request.set_sha256,
            seeds_sha256=request.seeds_sha256,
            num_updates=granted.num_updates,
            num_sites=granted.num_sites,
            noise=granted.noise,
            clip=granted.clip,
            step=granted.step,
            within_at=granted.within_at,
            charged_at=self.clock(),
        )

    def _past(self, request: KeeperRequest) -> Past:
        ledger = self.ledger
        return Past(
            charged=ledger.charged(request.run_id, request.round),
            used=frozenset(ledger.used(request.run_id, request.round)),
            noises=ledger.noises(),
            noises_of_run=ledger.noises(request.run_id),
            num_without_noise=ledger.num_without_noise(request.run_id),
        )

    def _reader(self) -> Reader:
        return Reader(self.config.membership, self.config.roster)


def _for_want_of(unfit: dict[str, str]) -> Refused | None:
    if not unfit:
        return None
    reasons = [f"{worker}: {unfit[worker]}" for worker in sorted(unfit)]
    return Refused(f"seeds that cannot be used: {some_of(reasons, _MOST_NAMED)}", unfit=unfit)
