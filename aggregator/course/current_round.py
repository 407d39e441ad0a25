"""The open round with its clock: what is due in it, and when the next thing will be."""

import fnmatch
import logging
from collections.abc import Collection, Mapping
from dataclasses import replace

from aggregator.commands import Standing
from aggregator.config import AggregatorConfig
from aggregator.events import RoundMoved, RoundOpened
from aggregator.masking import Implausible, RingSum, SiteMeans, Unmasking
from aggregator.opening import OpenedRun
from aggregator.presence import Attendance, PartialUploads, Turnout, first_draws
from aggregator.rounds import Close, Extended, OpenRound, Round, RoundPolicy, decide
from aggregator.senders import Admission, Guard, Refusals
from aggregator.state import ClosedBy, Frozen
from broker.wire import Draw, digest_of_set
from console import IS_SHOWN, some_of

log = logging.getLogger(__name__)

_REPORT_EVERY_S = 30.0
_MOST_NAMED = 8
_SITES_LOOKED_AT_EVERY_S = 1.0
_STAYS_IN_SUM = (
    "they came in sums of several, before the aggregator had a list that may change, or while its disk was nearly full"
)
_STAYS_IN_EXTREMES = "the run takes minima or maxima over its sites, which cannot be taken back"


class CurrentRound:
    """One open round. Its time runs from its construction, or from ``restart_clock``.

    With ``is_last`` it is the one after the last round: the sites measure the last model, and answer without tensors.
    ``policy`` are its rules, by default those of the run.
    """

    def __init__(
        self,
        number: int,
        config: AggregatorConfig,
        opened: OpenedRun,
        attendance: Attendance,
        *,
        policy: RoundPolicy | None = None,
        is_last: bool = False,
    ) -> None:
        self.number, self.is_last = number, is_last
        self._policy = policy or config.policy
        limits, ledger = config.weight_limits, opened.stores.ledger
        median = ledger.median_samples(before=number) if limits.go_by_median else None
        most_samples = limits.most_samples(median)
        local = opened.broadcaster.local or config.local
        weigher = replace(config.weigher, most_samples=most_samples, lr=local.lr)
        self._spending = spending = opened.spending
        is_central = spending is not None and spending.noising.where == "central"
        most_norm = spending.clip if spending is not None and is_central else None
        self.updates = OpenRound(number, opened.stores, weigher=weigher, is_last=is_last, most_norm=most_norm)
        """The updates folded in it."""
        self.partial_uploads = PartialUploads(
            number, num_shards=config.topology.num_shards, num_before=self.updates.num_folded
        )
        self.refusals = Refusals(
            number,
            opened.stores.transport,
            dead=config.topology.dead,
            is_known=attendance.has_folded,
            on_row=self.updates.refused,
            are_signed=config.membership.has_roster,
        )
        """Of messages that do not count in it."""
        are_masked = opened.keepers is not None
        halves = {} if are_masked else opened.stores.directory.model(number - 1).halves(opened.run.specs)
        self.guard = Guard(opened.expected.encoding.folded, halves=halves)
        """What a single update may do to it."""
        draws = () if is_last else opened.stores.ledger.draws(number)
        self.turnout = Turnout(
            attendance, seed=config.seed, round_number=number, draws=draws, everybody=config.everybody
        )
        """Who takes part in it."""
        self._policy = self._policy.of_these(self.turnout.num_always)
        self._config, self._attendance, self._prefetch = config, attendance, opened.prefetch
        self._clock, self._on_event = opened.stores.clock, opened.stores.on_event
        self._answered = opened.stores.ledger.answered
        self._keepers, self._ledger, self._run_id = opened.keepers, opened.stores.ledger, opened.run.run_id
        self._rosters = config.membership.rosters
        self._offered: set[str] = set()
        """Workers whose seeds keepers were offered."""
        self._was_told_of_sites = False
        self.unmasking: Unmasking | None = None
        """What is asked of the keepers, once its set of updates is decided; None before, and in other runs."""
        self.frozen = None if is_last else self._ledger.frozen(number)
        """What is recorded once its set of updates is decided; None before, and where nothing waits for that."""
        if self.frozen is not None and self._keepers is not None:
            self.unmasking = self._unmasking(self.frozen)
        self._last_move: RoundMoved | None = None
        self._largest = (0.0, "")
        self._stuck: set[str] = set()
        """Workers whose updates cannot be taken out, as was said."""
        self._standing = opened.steering.standing
        self._begin(report_in_s=_REPORT_EVERY_S)

    def _begin(self, *, report_in_s: float) -> None:
        now = self._clock()
        self._round = Round.open(self.number, self._policy, now=now)
        self._report_at = now + report_in_s
        self._wake_at = self._round.deadline_at
        self.follow(self._standing)

    # -- masks ----------------------------------------------------------------------------------------------

    def _unmasking(self, frozen: Frozen) -> Unmasking:
        total = self.updates.accumulator
        assert isinstance(total, RingSum)
        assert self._keepers is not None
        return Unmasking(frozen, total, self._keepers, clock=self._clock)

    def ask_keepers(self) -> None:
        """Asks for the masks of its updates, if its set is decided."""
        if self.unmasking is not None:
            self.unmasking.ask(self._ledger.seeds(self.number))

    def site_means(self) -> SiteMeans | None:
        """What its updates say of themselves together, once their masks are off; None if they are not masked.

        Implausible if their masks are still on, or if what is left cannot be the sum of its updates.
        """
        if self._keepers is None:
            return None
        if self.unmasking is None or not self.unmasking.is_complete:
            raise Implausible("its updates are of too few sites, and so their masks stay on")
        total = self.updates.accumulator
        assert isinstance(total, RingSum)
        total.check(self.updates.num_folded, noise=self.unmasking.noise)
        terms = None if self._spending is None else self._spending.terms
        means = SiteMeans.of(list(total.extras()), self._keepers.masking, terms)
        if self.unmasking.noise > 0:  # which is on the sum of the weights, too; with noise each update weighs 1
            return replace(means, weight=float(self.updates.num_folded))
        if means.weight <= 0:
            raise Implausible(f"without their masks, the updates weigh {means.weight:g} together")
        return means

    def freezes(self, by: ClosedBy) -> bool:
        """Whether it is not closed yet, for this reason, since its updates are masked: it is decided and waits now.

        Or it stays open, since they are of too few sites. What its model costs of the privacy budget is charged when
        it is decided.
        """
        if (self._keepers is None and self._spending is None) or self.frozen is not None or by is ClosedBy.ABANDONED:
            return False
        if self.updates.num_folded == 0:
            return False
        if self._keepers is not None and self._num_sites < self._keepers.masking.min_sites:
            return self._waits_for_sites(by)
        charge = None if self._spending is None else self._spending.charge
        self.frozen = self.updates.freeze(by, run_id=self._run_id, charge=charge)
        if self._keepers is None:
            return False
        self.unmasking = self._unmasking(self.frozen)
        self.ask_keepers()
        return True

    @property
    def _num_sites(self) -> int:
        """The number of sites that its updates are from; of workers, where there is no roster."""
        workers = {update.worker for update in self.updates.counting}
        if self._rosters is None:
            return len(workers)
        roster = self._rosters.current()
        return len({roster.site_of(worker) for worker in workers})

    def _waits_for_sites(self, by: ClosedBy) -> bool:
        assert self._keepers is not None
        if not self._was_told_of_sites:
            self._was_told_of_sites = True
            log.warning(
                "round %d stays open: its %d updates are of %d sites, and the masks of fewer than --min-sites %d are"
                " never taken off",
                self.number,
                self.updates.num_folded,
                self._num_sites,
                self._keepers.masking.min_sites,
            )
        self._wake_at = self._clock() + _SITES_LOOKED_AT_EVERY_S
        return by is not ClosedBy.COMMAND

    def _offer(self) -> None:
        """Shows the keepers what is committed since the last time, so that they are ready once its set is decided."""
        if self._keepers is None or self.frozen is not None:
            return
        new = [each for each in self._ledger.seeds(self.number) if each.worker not in self._offered]
        if new:
            self._offered.update(each.worker for each in new)
            masked = [(each.worker, each.masked_sha256) for each in new]
            offered = digest_of_set(self._keepers.run_id, self.number, masked)
            self._keepers.ask(self.number, new, offered, is_offer=True)

    def follow(self, standing: Standing) -> None:
        """Has it go by what is asked of the run: it stands still, goes on, or is closed at once."""
        now, self._standing = self._clock(), standing
        self._round = self._round.paused(now=now) if standing.is_paused else self._round.resumed(now=now)
        self._wake_at = now

    def note_bound(self, sender: str, bound: float) -> None:
        """Notes how far |weight * delta| of an update, or sum of updates, reaches."""
        self._largest = max(self._largest, (bound, sender))

    @property
    def largest_in_words(self) -> str:
        """Whose update may have moved the model most, of those folded since the start of this process."""
        bound, sender = self._largest
        return f"the largest update was that of '{sender}', with num_samples times delta up to {bound:.3g}"

    def restart_clock(self) -> None:
        """Starts its time anew, since its model was published only now; it also logs at once what it waits for."""
        self._begin(report_in_s=0.0)

    @property
    def num_present(self) -> int:
        """The number of workers present now."""
        return self._attendance.num_present(now=self._clock())

    @property
    def num_in(self) -> int:
        """How many of those waited for are in: updates, or measurements of the last model."""
        return len(self.updates.excused) if self.is_last else self.updates.num_folded

    @property
    def num_chosen(self) -> int | None:
        """The number of workers present that take part; None: all."""
        return self.turnout.num_chosen(now=self._clock()) if self.turnout.is_sampled else None

    @property
    def _num_able(self) -> int:
        """How many of the workers present are waited for: those that take part and can still send an update, but no
        more than are enough."""
        num_excused = 0 if self.is_last else self._attendance.num_among(self.updates.excused)
        num_able = max(0, self.turnout.num_chosen(now=self._clock()) - num_excused)
        sample = self._config.sample
        return num_able if sample is None or not self.turnout.is_sampled else sample.target_among(num_able)

    @property
    def _num_unable(self) -> int:
        return 0 if self.is_last else len(self.updates.excused)

    def _target_among(self, num_able: int) -> int:
        return self._policy.target(num_able, num_unable=self._num_unable)

    @property
    def unable_in_words(self) -> str:
        """Which workers have no update, and why."""
        excused = self.updates.excused
        named = "; ".join(f"{worker}: {reason}" for worker, reason in list(excused.items())[:_MOST_NAMED])
        return named + (f"; and {len(excused) - _MOST_NAMED} more" if len(excused) > _MOST_NAMED else "")

    @property
    def seconds(self) -> float:
        """How long it has been open."""
        return self._clock() - self._round.opened_at

    def time_left(self) -> float:
        """Seconds until something is due, if no event arrives before."""
        draws_at = self.turnout.draws_at(now=self._clock())
        times = [self._report_at, self._wake_at, self._attendance.next_change(), self._commit_at, draws_at]
        return max(0.0, min(at for at in times if at is not None) - self._clock()) + 0.001

    @property
    def _commit_at(self) -> float | None:
        oldest_at = self.updates.oldest_at
        return None if oldest_at is None else oldest_at + self._config.commit_every_s

    def do_what_is_due(self, *, num_held_up: int = 0) -> ClosedBy | None:
        """Commits and reports if it is time to; returns why the round is to be closed, or None if it stays open.

        ``num_held_up`` messages wait for bodies that do not come: they may fill the window, and then only a commit lets
        others in.
        """
        now = self._clock()
        if self.unmasking is not None:
            self._wake_at = self.unmasking.due_at
            self._commit_if_due(now, num_held_up)
            return self.unmasking.outcome
        if self.frozen is not None:
            return self.frozen.by
        if self._standing.closes_now:
            return ClosedBy.COMMAND
        num_able = self._num_able
        self._round, decision = decide(
            self._policy,
            self._round,
            now=now,
            num_folded=self.num_in,
            num_present=num_able,
            num_unable=self._num_unable,
        )
        self._emit_move(num_able)
        if isinstance(decision, Close):
            return decision.by
        self._wake_at = decision.until
        if isinstance(decision, Extended):
            log.warning("round %d: deadline passed; %s", self.number, self._waits_for())
        elif now >= self._report_at:
            log.info("round %d: %s", self.number, self._waits_for(), extra={IS_SHOWN: True})
            self._report_at = now + _REPORT_EVERY_S
        self._commit_if_due(now, num_held_up)
        return None

    def _commit_if_due(self, now: float, num_held_up: int) -> None:
        is_due = self._commit_at is not None and now >= self._commit_at
        is_window_full = self.updates.num_pending + num_held_up >= self._prefetch
        if is_due or is_window_full or self.updates.num_pending > self._prefetch // 2:
            self.commit()

    def commit(self) -> None:
        """Makes all decisions durable, then acks their messages."""
        self.updates.commit(num_present=self.num_present, num_chosen=self.num_chosen or 0)
        self._offer()

    # -- who takes part -------------------------------------------------------------------------------------

    def next_draws(self) -> tuple[Draw, ...] | None:
        """The round's draws with a new one, if nobody who is there could take part; None if it stays as it is."""
        sample = self._config.sample
        if sample is None or self.is_last or self.updates.num_folded or self.updates.excused:
            return None
        if self._standing.is_paused or self._standing.closes_now:
            return None
        draw = self.turnout.next_draw(sample, now=self._clock())
        return None if draw is None else (*self.turnout.draws, draw)

    def draws_of(self, config: AggregatorConfig, number: int) -> tuple[tuple[Draw, ...], int]:
        """The draws that a round opens with now, and how many of the workers present they choose."""
        return drawn_now(config, self._attendance, number=number, now=self._clock())

    def withdraw(self, admission: Admission) -> None:
        """Takes out the folded updates of workers that are not admitted any more, after a commit of what is pending.

        DamagedFile if what was kept for that is damaged; then none is out. Once its set is decided, all of them stay.
        """
        self.commit()
        if self.frozen is not None:
            return
        leaving = {
            update: admission.reason(update.worker, update.keys)
            for update in self.updates.folded()
            if not admission.admits(update.worker, update.keys)
        }
        self._warn_of_stuck({update.worker for update in leaving if update.kept is None})
        can_leave = {update: reason for update, reason in leaving.items() if update.kept is not None}
        if can_leave:
            self.updates.withdraw(can_leave)

    def can_leave_out(self, workers: Collection[str]) -> bool:
        """Whether the updates of these workers can be taken out."""
        return all(update.kept is not None for update in self.updates.folded() if update.worker in workers)

    def leave_out(self, workers: Mapping[str, str]) -> None:
        """Takes out the updates of these workers, each for its reason, as far as that can be."""
        self.commit()
        leaving = {update: workers[update.worker] for update in self.updates.folded() if update.worker in workers}
        can_leave = {update: reason for update, reason in leaving.items() if update.kept is not None}
        if can_leave:
            self.updates.withdraw(can_leave)

    def holds(self, pattern: str) -> bool:
        """Whether an update of a worker of this name, or of such a one, is in it and cannot be taken out again."""
        return any(
            update.kept is None and fnmatch.fnmatchcase(update.worker, pattern) for update in self.updates.folded()
        )

    def _warn_of_stuck(self, workers: set[str]) -> None:
        """Says once of each worker that its update stays although it should be out."""
        new = sorted(workers - self._stuck)
        if not new:
            return
        self._stuck.update(new)
        log.warning(
            "round %d: the updates of %s still count in it, though their workers do not any more: %s",
            self.number,
            some_of(new, _MOST_NAMED),
            _STAYS_IN_SUM if self._config.can_withdraw else _STAYS_IN_EXTREMES,
        )

    def emit_opened(self) -> None:
        """Informs the watchers that its model is out."""
        num_folded = self.updates.num_folded
        answered = self._answered(self.number) if num_folded else []
        unable = {worker: reason for worker, reason in self.updates.excused.items() if reason is not None}
        self._on_event(RoundOpened(round=self.number, num_folded=num_folded, answered=answered, unable=unable))
        self._emit_move(self._num_able)

    def _emit_move(self, num_able: int) -> None:
        if self.is_last:
            return
        move = RoundMoved(
            round=self.number,
            num_folded=self.updates.num_folded,
            target=self._target_among(num_able),
            num_present=self.num_present,
            num_chosen=self.num_chosen,
            num_unable=self._num_unable,
            num_wanted=0 if self._standing.is_paused else self._config.num_wanted,
            deadline_at=None if self._standing.is_paused else self._round.deadline_at,
            is_extended=self._round.is_extended,
            is_paused=self._standing.is_paused,
        )
        if move != self._last_move:
            self._last_move = move
            self._on_event(move)

    def _waits_for(self) -> str:
        if self.unmasking is not None:
            return f"is decided, with {self.updates.num_folded} updates, and waits for {self.unmasking.waits_for}"
        if self._standing.is_paused:
            return f"is paused, until fl-run resume; {self.updates.num_folded} folded"
        policy = self._policy
        present = self._attendance.names()
        names = ", ".join([name for name in present if self.turnout.chooses(name)][:_MOST_NAMED]) or "none"
        who = "workers present" if not self.turnout.is_sampled else f"of {len(present)} workers present are chosen"
        if self.is_last:
            wanted = self._target_among(self._num_able)
            return f"waits for {wanted} sites to measure the model; {self.num_in} have; present: {names}"
        unable = f"; without an update: {self.unable_in_words}" if self.updates.excused else ""
        return (
            f"waits for {self._target_among(self._num_able)} updates (quorum {policy.quorum.in_words}, at least"
            f" {policy.min_updates}); {self.updates.num_folded} folded; {who}: {names}{unable}"
        )


def drawn_now(
    config: AggregatorConfig, attendance: Attendance, *, number: int, now: float
) -> tuple[tuple[Draw, ...], int]:
    """The draws that a round opens with, and how many of the workers present they choose."""
    return first_draws(
        config.sample, attendance, seed=config.seed, round_number=number, now=now, everybody=config.everybody
    )
