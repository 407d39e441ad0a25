"""Where messages of the results queue come in: each is read, decided on, and folded, noted or set aside.

An update is read (``read_update``) and decided on (``decide_on``), and the open round carries the decision out; one
that is to be folded but whose body is in a blob waits until all of that is there, and is then decided on again.
"""

import contextlib
from dataclasses import replace

from aggregator.bodies import Body, Settled
from aggregator.course import Course
from aggregator.incoming.keepers import KeepersAnswers
from aggregator.masking import Released
from aggregator.presence import Uploads
from aggregator.rounds import (
    Contribution,
    Decision,
    Duplicate,
    Fold,
    Late,
    PassOver,
    Refuse,
    Unselected,
    decide_on,
    decide_on_answer,
    is_answer,
    read_answer,
    read_partial,
    read_update,
)
from aggregator.senders import Bases, BothWays, is_by_its_sender, suspected
from broker import Delivery
from console import DamagedBody, MalformedMessage, MessageError, ReplayedMessage, UnfitMessage


class Reception:
    """That of one run. ``uploads`` are told of the updates that arrive."""

    def __init__(self, course: Course, uploads: Uploads) -> None:
        self._course, self._uploads = course, uploads
        self._keepers = KeepersAnswers(course)
        self._sent_both_ways, self._bases = BothWays(), Bases()

    def take(self, delivery: Delivery) -> bool:
        """Reads a message and decides on it, or sets it aside. False if it was dropped."""
        course = self._course
        is_sum = delivery.shard is not None and course.config.topology.num_shards > 0
        if not is_sum and course.current.refusals.ignores(delivery):
            return False
        contribution: Contribution | None = None
        with self._suspected(delivery) as refuse_as:
            try:
                if refuse_as is not None:
                    raise UnfitMessage(refuse_as)
                if delivery.keeper is not None and course.run.keepers is not None:
                    self._keepers.take(delivery)
                elif delivery.shard is None and is_answer(delivery):
                    self._take_answer(delivery)
                else:
                    contribution = self._read(delivery)
                    self._decide_on(contribution, delivery)
            except MessageError as error:
                return self._refuse(delivery, contribution, error)
        return True

    def take_up(self, settled: Settled[Contribution | Released]) -> None:
        """Decides again on a message whose body is there by now; or sets it aside, if that will not come.

        One that would not be folded needs no body: perhaps it is gone because another message had the same update.
        """
        delivery, body = settled.delivery, settled.body
        if isinstance(settled.message, Released):
            self._keepers.take_up(settled.message, delivery, body, settled.reason)
            return
        contribution = settled.message
        if body is None and isinstance(self._decision_on(contribution), Fold):
            self._refuse(delivery, contribution, DamagedBody(settled.reason))
            return
        contribution.received(body.num_blob_bytes if body else 0)
        with contextlib.closing(body or contribution.in_message), self._suspected(delivery) as refuse_as:
            try:
                if refuse_as is not None:
                    raise UnfitMessage(refuse_as)
                self._decide_on(contribution, delivery, body)
            except MessageError as error:
                self._refuse(delivery, contribution, error)

    def _take_answer(self, delivery: Delivery) -> None:
        """Notes that a worker has no update, or that it measured the model; a MessageError if it is not ours."""
        course, current = self._course, self._course.current
        answer = read_answer(delivery, course.run.expected, round_number=current.number)
        worker, keys = answer.head.worker, answer.signer.keys if answer.signer else ()
        if not course.admission.admits(worker, keys):
            raise UnfitMessage(f"worker '{worker}' {course.admission.reason(worker, keys)}")
        decision = decide_on_answer(
            answer.head,
            open_round=current.number,
            max_staleness=course.config.policy.max_staleness,
            known=current.updates.known_answer(answer),
            is_last=current.is_last,
            is_chosen=course.is_chosen(worker, answer.head.round),
        )
        if isinstance(decision, PassOver) and decision.has_row:
            decision = replace(decision, has_row=current.refusals.passes_over(delivery))
        current.updates.take_answer(answer, decision, delivery)
        course.attendance.answered(worker, is_folded=False)

    def _read(self, delivery: Delivery) -> Contribution:
        """The update or partial sum in a delivery, judged by its header alone; a MessageError if it is not ours."""
        if delivery.cut_from:
            raise MalformedMessage(f"a message of {delivery.num_bytes} bytes; none of this run's updates is that large")
        expected, current = self._course.run.expected, self._course.current
        contribution: Contribution
        if delivery.shard is None:
            contribution = read_update(delivery, expected, round_number=current.number, guard=current.guard)
        else:
            contribution = partial = read_partial(delivery, expected, round_number=current.number)
            current.partial_uploads.arrived(partial.shard, partial.base_round, partial.head.sequence)
        for claim in contribution.claims:
            self._uploads.arrived(claim.worker)
        return contribution

    def _decide_on(self, contribution: Contribution, delivery: Delivery, body: Body | None = None) -> None:
        """Decides, and carries the decision out; what is to be folded may have to wait, and then comes with a body."""
        self._check_admitted(contribution)
        self._check_bases(contribution)
        decision = self._decision_on(contribution)
        if contribution.shard is None and isinstance(decision, Fold):
            self._sent_both_ways.check_alone(contribution.claims[0].worker)
        elif contribution.shard is not None and isinstance(decision, Refuse):
            self._sent_both_ways.note(self._course.current.updates.known(contribution))
        if body is None and isinstance(decision, Fold) and self._course.run.bodies.has_to_wait(contribution):
            self._expect_body(contribution, delivery)
        else:
            self._carry_out(decision, contribution, delivery, body or contribution.in_message)

    def _expect_body(self, contribution: Contribution, delivery: Delivery) -> None:
        bodies = self._course.run.bodies
        if self._course.config.membership.has_roster and bodies.has_same(contribution, delivery):
            raise ReplayedMessage("it was sent twice, and its body is on its way already")
        bodies.expect(contribution, delivery)

    def _carry_out(self, decision: Decision, contribution: Contribution, delivery: Delivery, body: Body) -> None:
        course, current = self._course, self._course.current
        updates, is_folded = current.updates, isinstance(decision, Fold)
        if is_folded:
            workers = [claim.worker for claim in contribution.claims]
            course.run.counting.check_room(
                current.number, workers, num_folded=updates.num_folded, folded=lambda: updates.counting
            )
        bound_before = updates.accumulator.bound
        updates.take(contribution, self._with_rows(decision, delivery), delivery, body)
        current.note_bound(delivery.sender, updates.accumulator.bound - bound_before)
        for claim in contribution.claims:
            course.attendance.answered(claim.worker, is_folded=is_folded)

    def _decision_on(self, contribution: Contribution) -> Decision:
        course, current = self._course, self._course.current
        decision = decide_on(
            contribution.claims,
            base_round=contribution.base_round,
            open_round=current.number,
            known=current.updates.known(contribution),
            max_staleness=course.config.policy.max_staleness,
            weigher=current.updates.weigher,
            is_chosen=lambda worker: course.is_chosen(worker, contribution.base_round),
        )
        if current.frozen is not None and isinstance(decision, Fold):
            return Late(tuple(contribution.claims), "it came after the round's set of updates was decided")
        if current.is_last and isinstance(decision, Fold):
            return Late(tuple(contribution.claims), "the model is only measured, not trained any more")
        return decision

    def _with_rows(self, decision: Decision, delivery: Delivery) -> Decision:
        """The decision; without ledger rows if this sender has had enough of them."""
        if not isinstance(decision, Late | Duplicate | Unselected) or not decision.claims:
            return decision
        return decision if self._course.current.refusals.passes_over(delivery) else replace(decision, claims=())

    def _check_admitted(self, contribution: Contribution) -> None:
        """An UnfitMessage if it has the update of a worker that may not count, perhaps not any more."""
        admission = self._course.admission
        signer = None if contribution.shard is not None else contribution.signer
        keys = () if signer is None else signer.keys
        for claim in contribution.claims:
            if contribution.shard is not None and admission.admits_in_sum(claim.worker, contribution.base_round):
                continue
            if not admission.admits(claim.worker, keys):
                raise UnfitMessage(f"worker '{claim.worker}' {admission.reason(claim.worker, keys)}")

    def _check_bases(self, contribution: Contribution) -> None:
        """An UnfitMessage if it was trained with other frozen parameters, and the run refuses such updates."""
        expected = self._course.run.expected
        for claim in contribution.claims:
            self._bases.check(
                claim.worker,
                claim.base_sha256,
                expected=expected.base_sha256,
                is_required=expected.requires_same_base,
            )

    def _suspected(self, delivery: Delivery) -> contextlib.AbstractContextManager[str | None]:
        return suspected(delivery, self._course.ledger, waits=lambda: delivery in self._course.run.bodies)

    def _refuse(self, delivery: Delivery, contribution: Contribution | None, error: MessageError) -> bool:
        """Sets a message aside with its reason; False if it was dropped."""
        if contribution is not None and contribution.shard is not None and contribution.blob_name is not None:
            self._course.run.stores.transport.delete_blobs([contribution.blob_name])  # a partial sum is never replayed
        is_by_sender = is_by_its_sender(error, are_signed=self._course.config.membership.has_roster)
        return self._course.current.refusals.refuse(delivery, str(error), is_by_sender=is_by_sender)
