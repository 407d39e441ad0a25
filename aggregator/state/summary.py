"""``summary.json``: what a run was and what came of it, from the ledger."""

from collections.abc import Mapping
from typing import Any

from aggregator.state.early_stop import Aim
from aggregator.state.ledger import Ledger, recorded_metrics
from aggregator.state.retention import best_of
from broker.wire import LocalTraining


def summarize(ledger: Ledger, settings: Mapping[str, Any], *, aim: Aim, stopped: str) -> dict[str, Any]:
    """The summary of a run that is over.

    ``offered_to_tasks`` are the settings that each site's task was told in its plan; whether it went by them, it alone
    can say, in its metrics.
    """
    facts = ledger.facts()
    rounds = [_round(row) for row in ledger.rounds()]
    last = rounds[-1] if rounds else {}
    final = {key: value for key, value in last.items() if key in ("model_sha256", "metrics", "worker_metrics")}
    return {
        "run": facts["run"],
        "run_id": facts["run_id"],
        "task": facts["task"],
        "settings": dict(settings),
        "offered_to_tasks": {name: settings[name] for name in LocalTraining.model_fields if name in settings},
        "stopped": stopped,
        "rounds": rounds,
        "best": _best(ledger, aim),
        "final": last.get("metrics", {}) | {"round": last.get("round", 0)} | final,
    }


def _round(row: Mapping[str, Any]) -> dict[str, Any]:
    """One round; the central metrics also appear at its top level, as ``loss``, ``accuracy``…"""
    metrics: dict[str, Any] = recorded_metrics(row)
    return metrics | {
        "round": row["round"],
        "closed_by": row["closed_by"],
        "folded": row["num_folded"],
        "late": row["num_late"],
        "refused": row["num_refused"],
        "duplicate": row["num_duplicate"],
        "num_samples": row["num_samples"],
        "seconds": row["seconds"],
        "metrics": metrics,
        "worker_metrics": row["worker_metrics"],
        "model_sha256": row["model_sha256"],
    }


def _best(ledger: Ledger, aim: Aim) -> dict[str, Any] | None:
    best = best_of(ledger.rounds(), aim)
    return None if best is None else {"round": best[1], best[0]: best[2]}
