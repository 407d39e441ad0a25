"""Closing a round: the next model is written to disk, then one commit, then the model is published. And ending a run.

The next model is made once, piece by piece; each piece goes into the file, into the digest, and at once on its way to
the workers. Nobody reads what is on its way before the commit is done and a head names it.
"""

import logging
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from aggregator.algorithms import Block, RoundFacts
from aggregator.config import BY_ROUND, AggregatorConfig
from aggregator.course import CurrentRound
from aggregator.events import RoundClosed, RunEnded, SitesMeasured, UpdatesOutvoted
from aggregator.masking import Implausible, SiteMeans
from aggregator.noising import CannotBeNoised, CentralNoise, clips_in_reach, multiplier
from aggregator.opening import OpenedRun, Staged
from aggregator.plans import schedule_of
from aggregator.rounds import MASTER, LeavesRange, Stepping, TooFew, companions_of, next_model, norm_of_mean
from aggregator.state import ClosedBy, Ending, FoldedUpdate, ModelFile, NewModel, RoundResult, WrittenModel, summarize
from aggregator.weighing import Divisors
from broker.states import raw
from broker.wire import HIGH_STEP, Buffer, Draw
from console import malloc, some_of
from privacy import count_noise, share_within

log = logging.getLogger(__name__)

_MOST_NAMED = 8


@dataclass(frozen=True, slots=True)
class Plan:
    """How a round is closed."""

    counts: bool
    """Whether the folded updates move the model; if not, it stays as it is."""
    next_round: int | None
    """The round to open in the same commit; None: only this round's metrics tell whether another one follows."""


def plan_of(number: int, by: ClosedBy, *, num_folded: int, ending: Ending) -> Plan:
    """How round ``number`` is closed, in which so many updates are folded."""
    return Plan(
        counts=by is not ClosedBy.ABANDONED and num_folded > 0,
        next_round=number + 1 if ending.goes_on_after(number) else None,
    )


@dataclass(frozen=True, slots=True)
class Closed:
    """A round that is closed in the ledger, with its model, which is still to be published."""

    plan: Plan
    body: Staged


def close_round(current: CurrentRound, by: ClosedBy, *, config: AggregatorConfig, opened: OpenedRun) -> Closed:
    """Makes the next model and commits it as the end of the round. The folded updates are still to be acked.

    If their mean takes the model out of its range, or there are too few for a robust rule, the round is abandoned:
    whatever updates contain, the run goes on. A clip that adapts moves all the same, once the count that it follows had
    its noise: that is charged, belongs to the round's frozen set, and is the same after a kill.
    """
    plan = plan_of(current.number, by, num_folded=current.updates.num_folded, ending=config.ending)
    unmasking, means, next_clip = current.unmasking, None, None
    reason = None if unmasking is None else unmasking.reason
    if reason is not None:
        log.error("round %d is abandoned, and the model stays as it is: %s", current.number, reason)
    _tell_if_nobody_could(current, by)
    if opened.has_large_model:
        malloc.give_back()  # the parts of updates, before those of a model are allocated
    try:
        if plan.counts:
            current.updates.judge()
            means = current.site_means()
            within = _add_noise(current, opened) if means is None else means.within
            next_clip = _next_clip(within, current, config=config, opened=opened)
        stepping = _stepping(current, plan, means, config=config, opened=opened)
        written, body = write_next_model(current, stepping, config=config, opened=opened)
    except (LeavesRange, TooFew, Implausible, CannotBeNoised) as error:
        by, reason, means = ClosedBy.ABANDONED, str(error), None
        if isinstance(error, LeavesRange) and unmasking is None:
            reason += f"; {current.largest_in_words}"
        log.error("round %d is abandoned, and the model stays as it is: %s", current.number, reason)
        plan = plan_of(current.number, by, num_folded=0, ending=config.ending)
        stepping = _stepping(current, plan, None, config=config, opened=opened)
        written, body = write_next_model(current, stepping, config=config, opened=opened)
    outvoted = current.updates.outvoted if plan.counts else {}
    if plan.counts:
        _tell_who_lost(current.number, current.updates.counting, opened)
    result = RoundResult(
        closed_by=by,
        reason=reason,
        closed_at=time.time(),
        seconds=current.seconds,
        num_samples=_num_samples(current, means, config, opened) if plan.counts else 0,
        num_chosen=current.num_chosen,
        settings=_settings_of_round(config, opened),
        measured=opened.evaluate(written.model),
        model_sha256=written.sha256,
        sent_sha256=body.sha256,
        companions=written.companions,
        scalars=stepping.scalars,
        site_means=None if opened.keepers is None else ({} if means is None else means.metrics),
        privacy=_privacy_of(opened),
        next_clip=next_clip,
    )
    next_draws, next_num_chosen = _draws_of(plan.next_round, current, opened)
    measured = current.updates.close(
        result,
        next_round=plan.next_round,
        next_draws=next_draws,
        next_num_chosen=next_num_chosen,
        install=written.install,
        num_present=current.num_present,
    )
    opened.best.measured(measured, last=current.number)
    for number in measured:
        opened.stores.on_event(SitesMeasured(row=opened.stores.ledger.round(number)))
    if outvoted:
        opened.stores.on_event(
            UpdatesOutvoted(round=current.number, scores=outvoted, num_updates=current.updates.num_folded)
        )
    opened.stores.on_event(RoundClosed(row=opened.stores.ledger.round(current.number)))
    return Closed(plan, body)


def _add_noise(current: CurrentRound, opened: OpenedRun) -> float | None:
    """Adds the aggregator's noise to the sum, if it adds any, once its cost is charged.

    Returns ``SiteMeans.within``; None if the clip is fixed, or others add the noise. CannotBeNoised if it has no room,
    or the clip adapts and the updates are too few for that.
    """
    spending, total, frozen = opened.spending, current.updates.accumulator, current.frozen
    if spending is None or spending.noising.where != "central":
        return None
    assert frozen is not None
    num_updates = current.updates.num_folded
    noise = CentralNoise.opened(opened.stores.directory.folder, opened.stores.ledger, opened.run.run_id)
    try:
        sigma = multiplier(spending.noising, num_updates) * spending.clip
        drawn = noise.of(current.number, frozen.set_sha256, sigma=sigma / HIGH_STEP)
    except ValueError as error:
        raise CannotBeNoised(str(error)) from error
    total.add_noise(drawn.at)
    if spending.noising.adaptive is None:
        return None
    within = math.fsum(update.figures["within"] - 0.5 for update in current.updates.counting)
    return within + noise.of_count(current.number, frozen.set_sha256, sigma=count_noise(num_updates))


def _next_clip(
    within: float | None, current: CurrentRound, *, config: AggregatorConfig, opened: OpenedRun
) -> float | None:
    """What updates are clipped to from the next round on; None if that stays as it is."""
    spending = opened.spending
    if within is None or spending is None or spending.noising.adaptive is None:
        return None
    least, most = clips_in_reach(spending.noising, config.masking, fewest=config.policy.min_updates)
    share = share_within(within, current.updates.num_folded)
    return spending.noising.adaptive.next_clip(spending.clip, share, least=least, most=most)


def _privacy_of(opened: OpenedRun) -> dict[str, Any]:
    """Who could see the updates of a round, and what its model has cost."""
    found: dict[str, Any] = {}
    if opened.keepers is not None:
        masking = opened.keepers.masking
        found["secure"] = {"min_sites": masking.min_sites, "keepers": list(masking.keepers), "bits": masking.bits}
    if opened.spending is not None:
        found["noise"] = opened.spending.recorded()
    return found


def _num_samples(
    current: CurrentRound, means: SiteMeans | None, config: AggregatorConfig, opened: OpenedRun
) -> int | None:
    """How many samples count: of masked updates, the sum of their weights, if these are samples; None: nobody says."""
    if opened.stores.tells_of_sites:
        return current.updates.num_samples
    return round(means.weight) if means is not None and config.weigher.goes_by_samples else None


def _draws_of(number: int | None, current: CurrentRound, opened: OpenedRun) -> tuple[tuple[Draw, ...], int]:
    """The draws that the next round opens with, and how many workers they choose; none if it does not open yet."""
    return ((), 0) if number is None else current.draws_of(opened.steering.config_of(number), number)


def _settings_of_round(config: AggregatorConfig, opened: OpenedRun) -> dict[str, Any]:
    """What the round ran with: of local training what its head said, which may be older than the configuration."""
    local = opened.broadcaster.local or config.local
    recorded = {name: config.recorded[name] for name in BY_ROUND if name in config.recorded}
    recorded |= {name: config.recorded[name] for name in map(schedule_of, config.schedules)}
    return recorded | local.model_dump(mode="json")


def _tell_if_nobody_could(current: CurrentRound, by: ClosedBy) -> None:
    """Logs that a round ends without any update, and which workers said that they have none."""
    if current.updates.num_folded == 0 and current.updates.excused:
        log.error(
            "round %d is closed (%s), and the model stays as it is: no worker had an update; %s",
            current.number,
            by,
            current.unable_in_words,
        )


def _stepping(
    current: CurrentRound, plan: Plan, means: SiteMeans | None, *, config: AggregatorConfig, opened: OpenedRun
) -> Stepping:
    """What the server's step needs to know of this round; without a round that counts, its scalars stay."""
    begins = current.number <= opened.run.remembers_from
    before = {} if begins else opened.stores.ledger.step_scalars(current.number - 1)
    updates, stepped = current.updates, opened.run.stepped
    if not plan.counts:
        return Stepping(config.step, config.server_lr, stepped=stepped, divisors=None, scalars=before)
    folded = updates.counting
    divisors = updates.weigher.divisors(folded) if means is None else Divisors.alike(means.weight)
    facts = RoundFacts(
        folded=folded,
        divisor=divisors.stepped,
        mean_norm=lambda: norm_of_mean(updates.accumulator, opened.run.specs, stepped, divisors.stepped),
        local=opened.broadcaster.local or config.local,
        population=opened.counting.population_with(current.number, folded),
        begins_anew=bool(opened.counting.lost(current.number, folded)),
    )
    scalars = {
        **config.step.scalars(before, facts),
        **opened.counting.scalars(current.number, begins_anew=facts.begins_anew),
    }
    return Stepping(config.step, config.server_lr, stepped=stepped, divisors=divisors, scalars=scalars)


def _tell_who_lost(number: int, folded: Sequence[FoldedUpdate], opened: OpenedRun) -> None:
    """Logs why what the correction keeps begins at zero after this round, if it does."""
    lost = opened.counting.lost(number, folded)
    if lost:
        log.warning(
            "round %d: %s lost what the correction (%s) keeps there: at all workers it begins anew with the next round",
            number,
            some_of(lost, _MOST_NAMED),
            opened.counting.correction,
        )


def write_next_model(
    current: CurrentRound, stepping: Stepping, *, config: AggregatorConfig, opened: OpenedRun
) -> tuple[WrittenModel, Staged]:
    """The next model on the disk, not yet in its place, and its body where its head will find it."""
    number, directory, specs = current.number, opened.stores.directory, opened.run.specs
    pieces = _next_model(current, stepping, opened=opened)
    new = directory.new_model(number, specs, companions=companions_of(config.step, specs, opened.run.stepped))
    with _discarded_on_error(new):
        if config.correction.sets:
            for payload, state in pieces:
                new.write(payload, state)
            written = new.finish()
            population = stepping.scalars.get("population", 0.0)
            return written, opened.broadcaster.stage(number + 1, written, population=population)
        upload = opened.broadcaster.upload(number + 1)
        for payload, state in pieces:
            new.write(payload, state)
            upload.write(payload)
        body = upload.finish()
        return new.finish(), body


def _next_model(
    current: CurrentRound, stepping: Stepping, *, opened: OpenedRun
) -> Iterator[tuple[Buffer, Mapping[str, Block]]]:
    """The payload of the next model, piece by piece, and what is remembered of the same elements."""
    before, specs = opened.stores.directory.model(current.number - 1), opened.run.specs
    accumulator = current.updates.accumulator
    if opened.summing is None:
        state = _state_before(current.number, opened)
        pieces = next_model(before, specs, accumulator, stepping, state=state)
        return ((raw(piece.values), piece.state) for piece in pieces)
    counts = stepping.divisors is not None
    payload = opened.summing.next_model(before, specs, accumulator) if counts else before.pieces(specs)
    return ((piece, {}) for piece in payload)


def _state_before(number: int, opened: OpenedRun) -> dict[str, ModelFile]:
    """The files with the step's state; none but the master if the step begins with this round."""
    names = set(opened.stores.ledger.companions(number - 1))
    if number <= opened.run.remembers_from:
        names &= {MASTER}
    return {name: opened.stores.directory.companion(number - 1, name) for name in names}


@contextmanager
def _discarded_on_error(new: NewModel) -> Iterator[None]:
    try:
        yield
    except BaseException:
        new.discard()
        raise


def reason_to_end(last: int, *, config: AggregatorConfig, opened: OpenedRun) -> str | None:
    """Why the run is to end after round ``last``, in words; None to go on."""
    ledger = opened.stores.ledger
    reason = config.ending.reason_after(last, opened.best.after) or ledger.keepers_end(last)
    return reason if reason is not None or opened.spending is None else opened.spending.reason_to_end()


def end_run(reason: str, *, config: AggregatorConfig, opened: OpenedRun) -> None:
    """Records the end of the run, whose final model is published, and leaves no sum that nothing needs."""
    stores, run_id = opened.stores, opened.run.run_id
    with stores.ledger.transaction():
        summary = summarize(stores.ledger, config.recorded, ending=config.ending, stopped=reason)
        stores.directory.write_summary(summary)
    if stores.ledger.accumulated() is None:  # or a run that is extended goes on with what is folded
        stores.directory.remove_sums(stores.epoch)
    fields = {"run_id": run_id, "reason": reason}
    log.info("run %s is finished: %s; %s", run_id, reason, stores.directory.summary, extra=fields)
    stores.on_event(RunEnded(reason=reason))
