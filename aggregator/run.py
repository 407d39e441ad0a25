"""Which run a state directory holds: a new one, or the one to go on with."""

import secrets
from dataclasses import dataclass

from torch import nn

from aggregator.checkpoint import StateDirectory
from aggregator.ledger import Ledger
from aggregator.settings import AggregatorSettings
from broker.errors import StateError, TaskError
from broker.tensors import Specs, first_not_finite, specs_of


@dataclass(frozen=True, slots=True)
class Run:
    """What does not change while this aggregator lives."""

    run_id: str
    """The run's name and a random part: two runs of one name never mix."""
    epoch: int
    """Counts the starts of an aggregator in this run."""
    specs: Specs


def open_run(settings: AggregatorSettings, model: nn.Module, *, directory: StateDirectory, ledger: Ledger) -> Run:
    """The run in this directory, with its newest model verified; a new one, with ``model``, if it is empty.

    Another run's directory, or one whose files are not what the ledger says, is a StateError.
    """
    state = model.state_dict()
    specs = specs_of(state)
    facts = ledger.facts()
    if not facts:
        broken = first_not_finite(state)
        if broken:
            raise TaskError(f"the task's model has NaN or infinity in '{broken}'")
        ledger.record(
            {
                "run": settings.run,
                "run_id": f"{settings.run}.{secrets.token_hex(4)}",
                "task": settings.task,
                "seed": settings.seed,
                "initial_sha256": directory.save_model(0, state),
                "epoch": 0,
            }
        )
        facts = ledger.facts()
    for name in ("run", "task", "seed"):
        if facts[name] != getattr(settings, name):
            raise StateError(
                f"{directory.folder} holds run '{facts['run']}' with --{name} {facts[name]},"
                f" not {getattr(settings, name)}; give another --state, or the settings it began with"
            )
    last = ledger.last_closed_round()
    directory.model(last).check(specs, ledger.model_sha256(last))
    epoch = int(facts["epoch"]) + 1
    ledger.record({"epoch": epoch})
    return Run(str(facts["run_id"]), epoch, specs)
