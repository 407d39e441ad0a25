"""The aggregator's log: one line for each update, partial sum and round."""

import logging
from collections.abc import Callable, Mapping
from typing import Any

from aggregator.events import (
    CommandTaken,
    Event,
    RoundClosed,
    SitesMeasured,
    SumDecided,
    UpdateDecided,
    UpdatesOutvoted,
    UpdateWithdrawn,
)
from aggregator.state import UpdateRow, Verdict
from console import IS_SHOWN, metrics_text, some_of
from learning import at_sites, plain
from privacy import spoken

log = logging.getLogger(__name__)

_ROUND_FIELDS = (
    "round",
    "closed_by",
    "num_folded",
    "num_late",
    "num_refused",
    "num_duplicate",
    "num_diverged",
    "num_unselected",
    "num_chosen",
    "num_outvoted",
    "num_samples",
    "seconds",
    "metrics",
    "worker_metrics",
    "model_sha256",
    "privacy",
)
"""The fields of the ledger row that a round's log line has."""


_METRICS = ("metrics", "worker_metrics")
_MOST_NAMED = 8


def log_event(event: Event) -> None:
    """Logs the event, if it is worth a line."""
    logs = _LOGS.get(type(event))
    if logs is not None:
        logs(event)


def _log_decided(event: UpdateDecided) -> None:
    if event.is_answer:
        _log_answer(event.row)
    elif event.shard is None and event.row.verdict is not Verdict.REFUSED:
        _log_update(event.row)


def _log_update(row: UpdateRow) -> None:
    is_stale = row.verdict is Verdict.FOLDED and row.staleness
    log.info(
        "round %3d ← %-16s %s  %s",
        row.base_round,
        row.worker,
        _told(row),
        f"folded, staleness {row.staleness}" if is_stale else row.verdict,
        extra={
            "round": row.base_round,
            "worker": row.worker,
            **_told_fields(row),
            "verdict": row.verdict,
            IS_SHOWN: True,
        },
    )


def _told(row: UpdateRow) -> str:
    """What an update says of its site, or how large it is."""
    if row.num_samples is None:
        return f"{(row.num_bytes or 0) / 1e6:6.2f} MB, which say nothing of its site"
    return f"{row.num_samples:6d} samples {row.train_s or 0.0:8.2f} s training"


def _told_fields(row: UpdateRow) -> dict[str, Any]:
    if row.num_samples is None:
        return {"num_bytes": row.num_bytes}
    return {"num_samples": row.num_samples, "train_s": row.train_s}


def _log_answer(row: UpdateRow) -> None:
    has_none = row.verdict is Verdict.DIVERGED  # for whatever reason its worker gives
    words = [*([] if has_none else [row.verdict]), *([row.reason] if row.reason else [])]
    log.log(
        logging.WARNING if has_none else logging.INFO,
        "round %3d ← %-16s no update  %s",
        row.base_round,
        row.worker,
        ": ".join(words),
        extra={"round": row.base_round, "worker": row.worker, "verdict": row.verdict, "reason": row.reason},
    )


def _log_withdrawn(event: UpdateWithdrawn) -> None:
    log.warning(
        "round %3d → %-16s %swithdrawn: it %s",
        event.round,
        event.worker,
        "" if event.num_samples is None else f"{event.num_samples:6d} samples  ",
        event.reason,
        extra={
            "round": event.round,
            "worker": event.worker,
            **({} if event.num_samples is None else {"num_samples": event.num_samples}),
            "verdict": Verdict.WITHDRAWN,
            "reason": event.reason,
        },
    )


def _log_outvoted(event: UpdatesOutvoted) -> None:
    named = sorted(event.scores.items(), key=lambda item: (-item[1], item[0]))
    log.info(
        "round %3d ⊘ %d of %d updates outvoted, with scores: %s",
        event.round,
        len(named),
        event.num_updates,
        some_of([f"{worker} {score:.4g}" for worker, score in named], _MOST_NAMED),
        extra={"round": event.round, "outvoted": dict(event.scores), "verdict": Verdict.OUTVOTED},
    )


def _log_command(event: CommandTaken) -> None:
    row = event.row
    log.log(
        logging.INFO if row.is_accepted else logging.WARNING,
        "round %3d ! %s%s  %s%s",
        row.round,
        row.text,
        "" if row.sender is None else f" by {row.sender}",
        "" if row.is_accepted else "refused: ",
        row.result,
        extra={
            "round": row.round,
            "command": row.text,
            "command_id": row.id,
            "sender": row.sender,
            "is_accepted": row.is_accepted,
            "result": row.result,
            IS_SHOWN: row.is_accepted,
        },
    )


def _log_sum(event: SumDecided) -> None:
    log.info(
        "round %3d ⇐ shard %-10d %s%d updates  %s",
        event.round,
        event.shard,
        "" if event.num_samples is None else f"{event.num_samples:6d} samples of ",
        event.num_updates,
        event.verdict,
        extra={
            "round": event.round,
            "shard": event.shard,
            **({} if event.num_samples is None else {"num_samples": event.num_samples}),
            "num_updates": event.num_updates,
            "verdict": event.verdict,
            IS_SHOWN: True,
        },
    )


def _log_round(event: RoundClosed) -> None:
    row = event.row
    log.info(
        "round %3d ↻ closed by %s: %d folded%s, %d late, %d refused, %.2f s  %s%s",
        row["round"],
        row["closed_by"],
        row["num_folded"],
        "" if row["num_chosen"] is None else f" of {row['num_chosen']} chosen",
        row["num_late"],
        row["num_refused"],
        row["seconds"],
        metrics_text(row["metrics"]),
        privacy_text(row["privacy"]),
        extra={name: plain(row[name]) if name in _METRICS else row[name] for name in _ROUND_FIELDS if name in row},
    )


def privacy_text(privacy: Mapping[str, Any]) -> str:
    """What the models up to this round have cost, to be put behind a round's figures; empty without noise."""
    noise = privacy.get("noise")
    return "" if noise is None else f"  {spoken(noise['epsilon'], noise['delta'], noise['releases'])}"


def _log_measured(event: SitesMeasured) -> None:
    row = event.row
    metrics = at_sites(row["worker_metrics"])
    log.info(
        "round %3d ⌂ its model at the sites:  %s",
        row["round"],
        metrics_text(metrics),
        extra={"round": row["round"], "worker_metrics": plain(metrics), "num_not_finite": row["num_not_finite"]},
    )


_LOGS: Mapping[type[Event], Callable[[Any], None]] = {
    UpdateDecided: _log_decided,
    UpdateWithdrawn: _log_withdrawn,
    UpdatesOutvoted: _log_outvoted,
    CommandTaken: _log_command,
    SumDecided: _log_sum,
    RoundClosed: _log_round,
    SitesMeasured: _log_measured,
}
"""The events that are worth a line; most of a short round's are not."""
