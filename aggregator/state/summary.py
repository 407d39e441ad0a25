"""``summary.json``: what a run was and what came of it, from the ledger."""

from collections.abc import Iterable, Mapping
from typing import Any

from aggregator.state.early_stop import Aim, Ending
from aggregator.state.ledger import CommandRow, Ledger, recorded_metrics
from aggregator.state.retention import best_of
from broker.wire import LocalTraining
from console import TaskError
from learning import at_sites, bare, plain

_MOST_COMMANDS = 1000
_UNKNOWN = object()


def summarize(ledger: Ledger, settings: Mapping[str, Any], *, ending: Ending, stopped: str) -> dict[str, Any]:
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
        **{name: facts[name] for name in ("init_sha256",) if name in facts},
        "settings": dict(settings),
        "offered_to_tasks": {name: settings[name] for name in LocalTraining.model_fields if name in settings},
        "settings_by_round": settings_by_round(ledger.rounds()),
        "commands": [_command(row) for row in ledger.commands(most=_MOST_COMMANDS)],
        "stopped": stopped,
        "rounds": rounds,
        "best": _best(ledger, ending.aim),
        **({"evaluation": _evaluation(ledger)} if ending.only_evaluates else {}),
        **({"privacy": last["privacy"]} if "privacy" in last else {}),
        "final": last.get("metrics", {}) | {"round": last.get("round", 0)} | final,
    }


def _evaluation(ledger: Ledger) -> dict[str, Any]:
    """What each worker measured of the last model, their mean, and what the aggregator measured itself."""
    last = ledger.last_closed_round()
    row = ledger.round(last)
    means = at_sites(row["worker_metrics"])
    return {
        "round": last,
        "model_sha256": row["model_sha256"],
        "workers": {worker: plain(each.recorded()) for worker, each in ledger.evaluations(last).items()},
        "mean": plain({bare(name): value for name, value in means.items()}),
        "central": plain(recorded_metrics(row)),
    }


def check_result(summary: Mapping[str, Any]) -> None:
    """A TaskError if the run has nothing to show for itself.

    That is, if workers only ever diverged, so that it ends with the model that it began with, or if it was to measure
    a model and nobody did.
    """
    evaluation = summary.get("evaluation")
    if evaluation is not None and not (evaluation["mean"] or evaluation["central"]):
        raise TaskError(
            f"the evaluation has no result: {len(evaluation['workers'])} workers answered, and none of them measured"
            " anything; see that workers are there, and that their task's evaluate() has held-out data"
        )
    rounds = summary["rounds"]
    if rounds and all(row["closed_by"] == "abandoned" and row.get("privacy") for row in rounds):
        raise TaskError(
            f"the run has no result: all of its {len(rounds)} rounds were abandoned, and the model is the one that it"
            " began with; the reasons are in the log and in report.html: what the keepers said, or did not say"
        )
    num_diverged = sum(row.get("diverged", 0) for row in rounds)
    if num_diverged and not any(row["folded"] for row in rounds):
        raise TaskError(
            f"the run has no result: in {len(rounds)} rounds no update was folded, {num_diverged} times a worker"
            " diverged or sat out, and the model is the one that it began with; the reasons are in the log and in"
            " report.html: look for NaN in the sites' data, or try a smaller --lr"
        )


def settings_by_round(rounds: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """With which settings rounds ran: the first entry has all that may differ, each later one what was new then."""
    changes: list[dict[str, Any]] = []
    known: dict[str, Any] = {}
    for row in rounds:
        if row["settings"]:
            new = {name: value for name, value in row["settings"].items() if known.get(name, _UNKNOWN) != value}
            new |= dict.fromkeys(name for name in known if name not in row["settings"])
            changes.append({"from_round": row["round"], "settings": new})
            known = row["settings"]
    return changes


def _command(row: CommandRow) -> dict[str, Any]:
    return {name: getattr(row, name) for name in ("received_at", "round", "sender", "text", "is_accepted", "result")}


def _round(row: Mapping[str, Any]) -> dict[str, Any]:
    """One round; the central metrics also appear at its top level, as ``loss``, ``accuracy``…"""
    metrics: dict[str, Any] = plain(recorded_metrics(row))
    return metrics | {
        "round": row["round"],
        "closed_by": row["closed_by"],
        "folded": row["num_folded"],
        "late": row["num_late"],
        "refused": row["num_refused"],
        "duplicate": row["num_duplicate"],
        "diverged": row["num_diverged"] or 0,
        **({} if row["num_chosen"] is None else {"chosen": row["num_chosen"], "unselected": row["num_unselected"]}),
        "outvoted": row["num_outvoted"] or 0,
        "num_samples": row["num_samples"],
        "seconds": row["seconds"],
        "metrics": metrics,
        "worker_metrics": plain(row["worker_metrics"]),
        "num_not_finite": row["num_not_finite"],
        "model_sha256": row["model_sha256"],
        **({"privacy": row["privacy"]} if row["privacy"] else {}),
    }


def _best(ledger: Ledger, aim: Aim) -> dict[str, Any] | None:
    best = best_of(ledger.rounds(), aim)
    if best is None:
        return None
    by = {} if aim.best_by == "median" else {"by": aim.best_by}
    return {"round": best[1], best[0]: best[2]} | by
