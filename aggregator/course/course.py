"""Where a run stands: its configuration as of the open round, who may count, who is there, and that round itself."""

import functools
import time
from collections.abc import Callable, Sequence

from aggregator.config import AggregatorConfig
from aggregator.course.current_round import CurrentRound, drawn_now
from aggregator.opening import OpenedRun
from aggregator.presence import Attendance, is_chosen
from aggregator.rounds import RoundPolicy
from aggregator.senders import Excluding, admission_by
from aggregator.state import Ledger
from broker.wire import Draw


class Course:
    """The course of one run, which ``begin`` puts in its state directory; a RuntimeError before, where that is needed.

    ``config`` is as given until then, and afterwards as people have it in the open round.
    """

    def __init__(self, config: AggregatorConfig, *, clock: Callable[[], float]) -> None:
        self.config = config
        self.admission = Excluding(admission_by(config.membership.rosters, config.admission))
        self.attendance = Attendance(deadline_s=config.policy.deadline_s)
        self._clock = clock
        self._opened: OpenedRun | None = None
        self._round: CurrentRound | None = None
        self._draws_of = functools.lru_cache(maxsize=8)(self._recorded_draws)
        """Of a closed round, whose draws stay as they are; asked for each update that is late."""

    def begin(self, opened: OpenedRun) -> None:
        self._opened = opened

    @property
    def has_begun(self) -> bool:
        return self._opened is not None

    @property
    def run(self) -> OpenedRun:
        if self._opened is None:
            raise RuntimeError("call start() first")
        return self._opened

    @property
    def ledger(self) -> Ledger:
        return self.run.stores.ledger

    @property
    def current(self) -> CurrentRound:
        if self._round is None:
            raise RuntimeError("no round is open")
        return self._round

    def follow(self, number: int) -> None:
        """Has everything go by what people have asked for, as it is in this round."""
        steering = self.run.steering
        self.config = steering.config_of(number)
        self.admission.exclude(steering.standing.excluded)

    def open(self, number: int) -> CurrentRound:
        """A round that is open in the ledger, with what is folded in it; one that is open here begins anew."""
        self.follow(number)
        self._round = CurrentRound(number, self.config, self.run, self.attendance)
        return self._round

    def open_in_ledger(self, number: int) -> None:
        """Opens a round and draws who takes part in it, unless that is done."""
        config = self.run.steering.config_of(number)
        draws, num_chosen = drawn_now(config, self.attendance, number=number, now=self._clock())
        self.ledger.open_round(number, now=time.time(), draws=draws, num_chosen=num_chosen)

    def open_last_evaluation(self, last: int, policy: RoundPolicy) -> None:
        """The round after the last, in which the sites measure the last model."""
        self._round = CurrentRound(last + 1, self.config, self.run, self.attendance, policy=policy, is_last=True)

    def end(self) -> None:
        """No round is open any more."""
        self._round = None

    def is_chosen(self, worker: str, base_round: int) -> bool:
        """Whether a worker takes part in this round, which is or was open."""
        if base_round == self.current.number:
            return self.current.turnout.chooses(worker)
        return is_chosen(worker, self._draws_of(base_round), seed=self.config.seed, round_number=base_round)

    def _recorded_draws(self, number: int) -> Sequence[Draw]:
        return self.ledger.draws(number)
