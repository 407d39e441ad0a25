"""Answers without tensors, from workers that have no update: checked as updates are, decided on, and never folded."""

from collections.abc import Mapping
from dataclasses import dataclass

from aggregator.rounds.intake import Expected, all_metrics, check_model, check_origin
from aggregator.rounds.verdicts import not_chosen
from aggregator.state import UpdateRow, Verdict
from broker import Delivery
from broker.wire import Reply, Signer, decode_from, is_of_kind

_VERDICTS: Mapping[str, Verdict] = {"diverged": Verdict.DIVERGED, "measured": Verdict.MEASURED}


@dataclass(frozen=True, slots=True)
class Excuse:
    """Its worker has answered, and no update of it is waited for."""


@dataclass(frozen=True, slots=True)
class PassOver:
    """It does not count: it is late, or there is one already. ``has_row``: whether the ledger has a row of it."""

    verdict: Verdict
    reason: str
    has_row: bool = True


AnswerDecision = Excuse | PassOver


@dataclass(frozen=True, slots=True)
class ReceivedAnswer:
    """An answer that is valid."""

    head: Reply
    num_bytes: int
    signer: Signer | None = None
    """Who signed it; None where senders are believed."""

    @property
    def verdict(self) -> Verdict:
        """What becomes of it if it counts."""
        return _VERDICTS[self.head.outcome]

    def row(self, decision: AnswerDecision, *, received_at: float, round_number: int) -> UpdateRow | None:
        """Its ledger row in the open round; None if it has none."""
        head = self.head
        if isinstance(decision, PassOver) and not decision.has_row:
            return None
        return UpdateRow(
            received_at=received_at,
            round=round_number,
            verdict=self.verdict if isinstance(decision, Excuse) else decision.verdict,
            reason=head.reason if isinstance(decision, Excuse) else decision.reason,
            worker=head.worker,
            instance=head.instance,
            base_round=head.round,
            staleness=round_number - head.round,
            num_bytes=self.num_bytes,
            train_s=head.train_s if head.outcome == "diverged" else None,
            queue_s=max(0.0, received_at - head.sent_at),
            eval_metrics=all_metrics(head.eval_metrics, head.eval_not_finite),
        )


def is_answer(delivery: Delivery) -> bool:
    """Whether what came on a queue of updates says that it is an answer without tensors."""
    return is_of_kind(delivery.body, Reply)


def read_answer(delivery: Delivery, expected: Expected, *, round_number: int) -> ReceivedAnswer:
    """The answer in a delivery; a MessageError that says what is wrong with it, if anything is."""
    message = decode_from(delivery.body, Reply, trust=expected.membership.trust)
    check_origin(message, delivery, expected, round_number=round_number)
    check_model(message.header, expected, is_signed=message.signer is not None)
    return ReceivedAnswer(message.header, len(delivery.body), message.signer)


def decide_on_answer(
    answer: Reply,
    *,
    open_round: int,
    max_staleness: int,
    known: str | None,
    is_last: bool = False,
    is_chosen: bool = True,
) -> AnswerDecision:
    """What becomes of an answer. ``known`` is the instance of what is in with its key, an update or an answer.

    ``is_last``: the open round is the one in which the last model is measured, and nothing else. ``is_chosen``: whether
    its worker takes part in its round.

    An update may follow it, and then counts: what kept its worker from training may be mended.
    """
    if known is not None:
        reason = f"an answer of {answer.worker} for round {answer.round} is in already"
        return PassOver(Verdict.DUPLICATE, reason, has_row=known != answer.instance)
    if answer.outcome == "measured" and not is_last:
        return PassOver(Verdict.LATE, "the run has gone on since it was asked to measure the last model")
    if open_round - answer.round > (0 if is_last else max_staleness):
        why = "" if answer.reason is None else f"; it has no update: {answer.reason}"
        return PassOver(Verdict.LATE, f"round {answer.round} is closed; the open one is {open_round}{why}")
    if not is_chosen:
        return PassOver(Verdict.UNSELECTED, not_chosen(answer.round))
    return Excuse()
