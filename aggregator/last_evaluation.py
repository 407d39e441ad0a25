"""The round after the last: the sites measure the model that the run ends with, where nobody else has."""

import logging
import time

from aggregator.course import Course, CurrentRound
from aggregator.events import LastEvaluationOpened, SitesMeasured, Watcher
from aggregator.state import ClosedBy, RoundResult
from console import IS_SHOWN

log = logging.getLogger(__name__)


def asks_sites(course: Course, last: int) -> bool:
    """Whether the sites are still to measure the model after the last round: they can, and nobody else has."""
    run, ledger = course.run, course.ledger
    if run.keepers is not None or run.spending is not None:
        return False  # an answer without an update says what one site measured
    if course.config.ending.only_evaluates:
        return not ledger.is_measured(last)
    return not run.evaluate.has_data and ledger.sites_measure(last) and not ledger.is_measured(last)


def open_last_evaluation(course: Course, last: int, *, on_event: Watcher) -> None:
    """Waits for the sites to measure the model after the last round, by the rules of a round; not without end."""
    config = course.config
    policy = config.policy
    if not config.ending.only_evaluates:
        longest_s = max((row["seconds"] for row in course.ledger.rounds()), default=0.0)
        policy = policy.of_last_evaluation(longest_s=longest_s)
    course.open_last_evaluation(last, policy)
    what = "nothing is trained" if config.ending.only_evaluates else "all rounds are over"
    log.info("%s; the sites measure the model after round %d", what, last, extra={IS_SHOWN: True})
    on_event(LastEvaluationOpened(round=last, num_wanted=config.num_wanted))


def close_last_evaluation(course: Course, *, on_event: Watcher) -> None:
    """Records what the sites have measured, and publishes the model as the final one."""
    current, last = course.current, course.current.number - 1
    current.refusals.record_dropped()
    current.updates.close_evaluation(_result(current, course))
    on_event(SitesMeasured(row=course.ledger.round(last)))
    course.run.broadcaster.finish()
    course.run.retention.keep(last)


def _result(current: CurrentRound, course: Course) -> RoundResult | None:
    """What is recorded of the model that a run began with once the sites have measured it; None of a later one."""
    ledger, last = course.ledger, current.number - 1
    if last != ledger.base_round():
        return None
    return RoundResult(
        closed_by=ClosedBy.EVALUATED,
        closed_at=time.time(),
        seconds=current.seconds,
        num_samples=0,
        measured=course.run.evaluate(course.run.stores.directory.model(last)),
        model_sha256=ledger.model_sha256(last),
        sent_sha256=ledger.sent_sha256(last),
    )
