"""Which run a state directory holds: one to go on with, one taken over from the stream, or a new one."""

import logging
import secrets
from dataclasses import dataclass
from typing import Any

from aggregator.settings import AggregatorSettings
from aggregator.state import Ledger, StateDirectory
from broker import Transport
from broker.states import State, first_not_finite, read_model, specs_of
from broker.wire import Buffer, ModelHead, Specs, decode, difference
from console import DamagedFile, MalformedMessage, StateError, TaskError

log = logging.getLogger(__name__)

_OF_UPDATES_BEFORE: dict[str, Any] = {"compression": "none", "zstd": 0, "shared": "*"}
"""What holds for ledgers that do not say."""


@dataclass(frozen=True, slots=True)
class Run:
    """What does not change while this aggregator lives."""

    run_id: str
    """The run's name and a random part: two runs of one name never mix."""
    epoch: int
    """Goes up with each aggregator that leads the run."""
    specs: Specs


def open_run(
    settings: AggregatorSettings,
    initial: State,
    *,
    directory: StateDirectory,
    ledger: Ledger,
    transport: Transport,
) -> Run:
    """The run in this directory; if that is empty, the open run of this name on the stream; or a new one.

    ``initial`` are the shared tensors of the model that a new one begins with.
    Its newest model is verified; if it is damaged, the run goes back to the one before. Another run's directory,
    or one that the stream has left behind, is a StateError.
    """
    specs = specs_of(initial)
    on_stream = newest_head(transport)
    if not ledger.facts():
        ledger.record(_beginning(settings, initial, directory, transport, on_stream))
    facts = ledger.facts()
    _check_is_ours(settings, facts, directory)
    if on_stream is not None and on_stream[0].run_id == facts["run_id"] and on_stream[0].epoch > facts["epoch"]:
        raise StateError(
            f"{directory.folder} has seen {facts['epoch']} starts of run {facts['run_id']}, the stream"
            f" {on_stream[0].epoch}: another aggregator led it from a directory of its own;"
            " an empty --state goes on from the stream"
        )
    epoch = ledger.claim()
    _go_back_to_sound_model(directory, ledger, specs)
    return Run(str(facts["run_id"]), epoch, specs)


def newest_head(transport: Transport) -> tuple[ModelHead, Buffer] | None:
    """The newest head on the stream and its payload; None if there is none that can be read."""
    body = transport.newest_head()
    if body is None:
        return None
    try:
        return decode(body, ModelHead)
    except MalformedMessage as error:
        log.warning("the newest message on the model stream is not ours: %s", error)
        return None


def _beginning(
    settings: AggregatorSettings,
    initial: State,
    directory: StateDirectory,
    transport: Transport,
    on_stream: tuple[ModelHead, Buffer] | None,
) -> dict[str, Any]:
    """The first facts of a ledger, with the model they name in its place."""
    if on_stream is not None and on_stream[0].run == settings.run and not on_stream[0].is_finished:
        return _taken_over(settings, initial, directory, transport, *on_stream)
    broken = first_not_finite(initial)
    if broken:
        raise TaskError(f"the task's model has NaN or infinity in '{broken}'")
    written = directory.write_model(0, initial)
    written.install()
    return {
        "run": settings.run,
        "run_id": f"{settings.run}.{secrets.token_hex(4)}",
        "queue": settings.queue,
        "task": settings.task,
        "seed": settings.seed,
        **_of_updates(settings),
        "base_round": 0,
        "base_sha256": written.sha256,
        "epoch": 0,
    }


def _taken_over(
    settings: AggregatorSettings,
    initial: State,
    directory: StateDirectory,
    transport: Transport,
    head: ModelHead,
    payload: Buffer,
) -> dict[str, Any]:
    problem = difference(specs_of(initial), head.tensors)
    if head.shared != settings.shared.patterns:
        problem = f"shares '{','.join(head.shared)}'"
    if head.seed != settings.seed:
        problem = problem or f"has --seed {head.seed}"
    if head.compression != settings.update_compression:
        problem = problem or f"has the compression {head.compression}"
    if problem:
        raise StateError(
            f"run '{head.run}' is open on queue '{settings.queue}' and {problem};"
            " to begin another run, give it another --run"
        )
    log.warning(
        "the state directory is empty; taking run %s over from the stream, at round %d", head.run_id, head.round
    )
    written = directory.write_model(head.round - 1, read_model(head, payload, transport))
    written.install()
    return {
        "run": head.run,
        "run_id": head.run_id,
        "queue": settings.queue,
        "task": settings.task,
        "seed": head.seed,
        **_of_updates(settings),
        "base_round": head.round - 1,
        "base_sha256": written.sha256,
        "epoch": head.epoch,
        "min_epoch": head.epoch + 1,  # what was folded in the open round went with the other's state
    }


def _of_updates(settings: AggregatorSettings) -> dict[str, Any]:
    """What decides how updates of a run look: it cannot change while some are on their way."""
    return settings.model_dump(mode="json", include=set(_OF_UPDATES_BEFORE))


def _check_is_ours(settings: AggregatorSettings, facts: dict[str, Any], directory: StateDirectory) -> None:
    facts = _OF_UPDATES_BEFORE | facts
    names = ("run", "queue", "task", "seed", *_OF_UPDATES_BEFORE)
    given = settings.model_dump(mode="json", include=set(names))
    for name in names:
        if facts[name] != given[name]:
            raise StateError(
                f"{directory.folder} holds run '{facts['run']}' with --{name} {facts[name]},"
                f" not {given[name]}; give another --state, or the settings it began with"
            )


def _go_back_to_sound_model(directory: StateDirectory, ledger: Ledger, specs: Specs) -> None:
    while True:
        last = ledger.last_closed_round()
        try:
            directory.model(last).check(specs, ledger.model_sha256(last))
            return
        except DamagedFile as error:
            if last == ledger.base_round():
                raise
            log.error("%s; doing round %d again from the model before", error, last)
            ledger.undo_from(last)
