"""What keepers answer: masks, which come off the open round's sum, or why they say nothing."""

import contextlib
import logging

from aggregator.bodies import Body
from aggregator.course import Course
from aggregator.masking import Released, read_answer_of_keeper
from broker import Delivery
from broker.wire import Withheld

log = logging.getLogger(__name__)


class KeepersAnswers:
    """Those of one run whose updates are masked."""

    def __init__(self, course: Course) -> None:
        self._course = course

    def take(self, delivery: Delivery) -> None:
        """Takes masks off the open round's sum, or what a keeper says instead; a MessageError if it is not ours."""
        run = self._course.run
        answer = read_answer_of_keeper(delivery, run.expected)
        if isinstance(answer, Withheld):
            self._take_refusal(answer)
            run.stores.transport.ack([delivery])
        elif self._wants(answer) and answer.head.blob is not None:
            run.bodies.expect(answer, delivery)
        else:
            self._unmask(answer, delivery, answer.in_message)

    def take_up(self, answer: Released, delivery: Delivery, body: Body | None, reason: str) -> None:
        """Takes masks off whose body is there by now; asks for them again if that will not come, for ``reason``."""
        if body is None and self._wants(answer):
            log.warning(
                "round %d: the masks of keeper %s: %s; asking again", answer.head.round, answer.head.keeper, reason
            )
            self._course.current.ask_keepers()
        with contextlib.closing(body or answer.in_message):
            if body is None:
                self._course.run.stores.transport.ack([delivery])
            else:
                self._unmask(answer, delivery, body)

    def _wants(self, answer: Released | Withheld) -> bool:
        unmasking = self._course.current.unmasking
        return unmasking is not None and unmasking.wants(answer)

    def _unmask(self, answer: Released, delivery: Delivery, body: Body) -> None:
        """If these masks are still wanted. A kill before the round's commit is followed by the same request again."""
        current, transport = self._course.current, self._course.run.stores.transport
        if current.unmasking is not None and self._wants(answer):
            current.unmasking.take(answer, body)
        if answer.blob_name is not None:
            transport.delete_blobs([answer.blob_name])
        transport.ack([delivery])

    def _take_refusal(self, answer: Withheld) -> None:
        """Goes on without the workers whose seeds are of no use, if they can be left out; else without the round."""
        current = self._course.current
        if answer.round != current.number:
            return
        log.error(
            "round %d: keeper %s: %s%s",
            answer.round,
            answer.keeper,
            answer.reason,
            "".join(f"; {worker}: {reason}" for worker, reason in answer.unfit.items()),
        )
        unfit = {worker: f"has a seed of no use: {reason}" for worker, reason in answer.unfit.items()}
        if current.unmasking is None:
            current.leave_out(unfit)
        elif current.unmasking.wants(answer):
            if unfit and not answer.is_final and current.can_leave_out(unfit):
                self._begin_anew_without(unfit)
                return
            if unfit and not answer.is_final:
                log.error(
                    "round %d: %s cannot be taken out of it, since they came in sums of several; fl-run exclude"
                    " leaves them out of the next",
                    answer.round,
                    ", ".join(sorted(unfit)),
                )
            if answer.ends_run:
                ended = {"round": answer.round, "reason": f"keeper {answer.keeper}: {answer.reason}"}
                self._course.ledger.record({"keepers_end": ended})
            current.unmasking.refused(answer)

    def _begin_anew_without(self, unfit: dict[str, str]) -> None:
        """Has the round's set of updates be decided again, without these workers: this keeper has given nothing yet."""
        self._course.ledger.freeze(None)
        current = self._course.open(self._course.current.number)
        current.leave_out(unfit)
        current.emit_opened()
