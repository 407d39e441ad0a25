"""How a run begins in an empty state directory: as a new one, or taken over from the stream."""

import logging
import secrets
import time
from typing import Any

from aggregator.config import AggregatorConfig
from aggregator.opening.began_with import encoding_facts, masking_text
from aggregator.rounds import companions_of
from aggregator.state import InitialModel, StateDirectory
from broker import Transport
from broker.modules import ModelTensors
from broker.states import State, first_not_finite, read_model, specs_of
from broker.wire import Buffer, ModelHead, difference, tensor_sets
from console import StateError, TaskError

log = logging.getLogger(__name__)

_AFTER_RUN_S = 1.0
"""Between the beginnings of two runs."""
_LATEST = 1e12 - 1
"""The latest beginning that a head can say; without a roster, anybody may have written the one before."""


def beginning(
    config: AggregatorConfig,
    initial: State,
    tensors: ModelTensors,
    directory: StateDirectory,
    transport: Transport,
    on_stream: tuple[ModelHead, Buffer] | None,
) -> dict[str, Any]:
    """The first facts of a new ledger; the model that they name is in its place."""
    if on_stream is not None and on_stream[0].run == config.run and not on_stream[0].is_finished:
        head = on_stream[0]
        if config.takes_over:
            return _taken_over(config, initial, tensors, directory, transport, *on_stream)
        raise StateError(
            f"run '{head.run}' is open on queue '{config.topology.queue}', at round {head.round},"
            f" but {directory.folder} has no run; give the --state that the run was begun with, --take-over to go on"
            " from the model on the broker, or another --run to begin anew"
        )
    if config.ending.only_evaluates and config.init is None:
        raise StateError(
            f"--evaluate-only needs a model, and {directory.folder} holds no run: give --init model.safetensors, or the"
            " --state of a run"
        )
    from_file: dict[str, Any] = {}
    if config.init is not None:
        file = InitialModel(config.init)
        initial, from_file = file.state(tensors, specs_of(initial)), {"init_sha256": file.sha256()}
        log.info("the run begins with the tensors of %s, SHA-256 %s", file.path, from_file["init_sha256"])
    broken = first_not_finite({name: tensor for name, tensor in initial.items() if name in tensors.trained})
    if broken:
        raise TaskError(
            f"the task's model has NaN or infinity in '{broken}', which is trained; mend model(), leave it at the sites"
            f" with --shared '!{broken}', or freeze it with requires_grad_(False)"
        )
    written = directory.write_model(0, initial)
    written.install()
    return {
        "run": config.run,
        "run_id": f"{config.run}.{secrets.token_hex(4)}",
        "queue": config.topology.queue,
        "task": config.task,
        "seed": config.seed,
        **encoding_facts(config),
        "server_optimizer": config.optimizer,
        "correction": str(config.correction),
        "began_at": _later_than(on_stream),
        "base_round": 0,
        "base_sha256": written.sha256,
        **from_file,
        "statistics": dict(config.statistics),
        "epoch": 0,
    }


def _later_than(on_stream: tuple[ModelHead, Buffer] | None) -> float:
    """When a new run begins: now, or just after the run before, whose aggregator's clock may have been ahead of ours.

    Workers take a run that began before one that they have seen for a replay.
    """
    before = 0.0 if on_stream is None else on_stream[0].began_at or 0.0
    return min(max(time.time(), before + _AFTER_RUN_S), _LATEST)


def _taken_over(
    config: AggregatorConfig,
    initial: State,
    tensors: ModelTensors,
    directory: StateDirectory,
    transport: Transport,
    head: ModelHead,
    payload: Buffer,
) -> dict[str, Any]:
    """The first facts of a ledger that goes on from the model on the stream; a StateError if that is another run's."""
    problem = _difference_from(head, config, initial)
    if problem:
        raise StateError(
            f"run '{head.run}' is open on queue '{config.topology.queue}' and {problem};"
            " to begin another run, give it another --run"
        )
    if config.init is not None:
        log.warning("--init %s is not used: run %s has begun, and goes on from its own model", config.init, head.run_id)
    log.warning(
        "the state directory is empty; taking run %s over from the stream, at round %d", head.run_id, head.round
    )
    anew = _begun_anew(head, config, tensors)
    sent = read_model(head, payload, transport, trained=tensors.trained)
    model = tensor_sets.split(sent, head.sets)[tensor_sets.MODEL]
    written = directory.write_model(head.round - 1, model)
    written.install()
    return {
        "run": head.run,
        "run_id": head.run_id,
        "queue": config.topology.queue,
        "task": config.task,
        "seed": head.seed,
        **encoding_facts(config),
        "server_optimizer": config.optimizer,
        **_correction_facts(config, head),
        "began_at": head.began_at,
        "base_round": head.round - 1,
        "base_sha256": written.sha256,
        "is_taken_over": True,
        "statistics": dict(head.statistics),
        **anew,
        "epoch": head.epoch,
        "min_epoch": head.epoch + 1,  # what was folded in the open round was lost with the other's state directory
    }


def _difference_from(head: ModelHead, config: AggregatorConfig, initial: State) -> str | None:
    """What the run of a head has that this configuration has not, in words; None if it is the same run."""
    told = [
        (head.shared != config.shared, f"shares '{','.join(head.shared)}'"),
        (problem := difference(specs_of(initial), head.model_tensors), problem),
        (head.seed != config.seed, f"has --seed {head.seed}"),
        (head.compression != config.compression, f"has the compression {head.compression}"),
        (config.statistics and config.statistics != head.statistics, "has other --statistics"),
        (head.downlink != config.downlink, f"has --downlink {head.downlink}"),
        ((head.correction or "none") != str(config.correction), f"has --correction {head.correction or 'none'}"),
        (masking_text(head.masking) != masking_text(config.masking), f"has --privacy {masking_text(head.masking)}"),
        (
            (head.privacy is None) != (config.noising is None),
            f"has {'no noise' if head.privacy is None else 'noise (--dp-noise)'}",
        ),
    ]
    return next((words for differs, words in told if differs), None)


def _begun_anew(head: ModelHead, config: AggregatorConfig, tensors: ModelTensors) -> dict[str, Any]:
    """What a run that is taken over begins anew, as facts, since it is not on the stream; says so."""
    anew: dict[str, Any] = {}
    if companions_of(config.step, head.model_tensors, tensors.trained):
        anew = {"optimizer_begins_with": head.round}
        log.warning(
            "what the server's optimizer (%s) remembers is not on the stream: it begins anew with round %d",
            config.optimizer,
            head.round,
        )
    if config.noising is not None and head.privacy is not None:
        anew |= config.noising.taken_over(head.privacy)
        log.warning(
            "the budget goes on from what the head says (mu^2 %g), and one model more: its noise may be out already",
            head.privacy.spent,
        )
    if head.downlink != "none":
        log.warning(
            "the stream has this model as workers read it: with --downlink %s, the digits beyond that were in the other"
            " state directory alone, and the run goes on without them",
            head.downlink,
        )
    return anew


def _correction_facts(config: AggregatorConfig, head: ModelHead) -> dict[str, Any]:
    """What a run that is taken over goes on with: what the server kept is not on the stream, and so all begin anew."""
    if not config.correction:
        return {"correction": str(config.correction)}
    return {
        "correction": str(config.correction),
        "control_epoch": head.control_epoch + 1,
        "counted": head.counted.hex(),
    }
