"""Which run a state directory holds: one to resume, one taken over from the stream, or a new one."""

import logging
import secrets
import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from aggregator.config import AggregatorConfig
from aggregator.corrections import control_specs, with_control
from aggregator.rounds import MASTER, companions_of, part_bytes_of
from aggregator.state import InitialModel, Ledger, ModelFile, StateDirectory, companion_specs
from broker import CONTROL, Transport
from broker.states import ModelForm, ModelTensors, State, first_not_finite, read_model, specs_of
from broker.wire import (
    MAX_NUMBER,
    MAX_PART_BYTES,
    Buffer,
    Digest,
    Masking,
    ModelHead,
    Specs,
    Trust,
    decode_from,
    difference,
    tensor_sets,
)
from console import DamagedFile, MessageError, SettingsError, StateError, TaskError

log = logging.getLogger(__name__)

_BEFORE: dict[str, Any] = {
    "compression": "none",
    "zstd": 0,
    "shared": "*",
    "server_optimizer": "fedavg",
    "robust": "none",
    "correction": "none",
    "downlink": "none",
    "privacy": "none",
    "noise": "none",
}
"""What a run has whose ledger does not say."""
_AFTER_RUN_S = 1.0
"""Between the beginnings of two runs."""
_LATEST = 1e12 - 1
"""The latest beginning that a head can say; without a roster, anybody may have written the one before."""


@dataclass(frozen=True, slots=True)
class Run:
    """What does not change during this aggregator's lifetime."""

    run_id: str
    """The run's name and a random part: two runs with the same name never mix."""
    epoch: int
    """Goes up with each aggregator that leads the run."""
    specs: Specs
    inline_cap: int
    """The cap that updates may have been sent under: ours, or that of the newest model on the stream if smaller."""
    sent: Specs
    """Of what is read from a head's body: the model, and the sets of tensors that the correction has besides."""
    form: ModelForm
    """How that body travels."""
    stepped: frozenset[str]
    """The tensors that the server's step moves; the others move by the plain mean."""
    part_bytes: frozenset[int]
    """The sizes of part that this run's models have had, and so its updates in blobs."""
    base_sha256: str | None = None
    """The digest of the frozen parameters that do not travel, as they are here; None if there are none."""
    statistics: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    """What tasks are told of all sites' samples."""
    remembers_from: int = 0
    """The round with which the server's optimizer begins to remember; what earlier ones left is another's."""

    @property
    def sends_model_alone(self) -> bool:
        """Whether what workers read is the model, to the bit, and nothing else."""
        return self.sent is self.specs and self.form.is_plain


def open_run(
    config: AggregatorConfig,
    initial: State,
    tensors: ModelTensors,
    *,
    directory: StateDirectory,
    ledger: Ledger,
    transport: Transport,
    base_sha256: str | None,
) -> Run:
    """The run in this directory; if that is empty, a new run or, if so configured, the open one on the stream.

    ``initial`` are the shared tensors of the task's own model, which a new run begins with unless the configuration
    names a file; ``tensors`` says what the model has.
    The newest model is verified; if it is damaged, the run goes back to the one before. A StateError if the directory
    belongs to another run; and if it is empty while such a run is open, or behind the stream, unless the configuration
    says which of the two is to be believed.
    """
    specs = specs_of(initial)
    on_stream = newest_head(transport, config.membership.trust)
    if ledger.facts():
        _check_began_from(config, ledger.facts(), directory)
    else:
        ledger.record(_beginning(config, initial, tensors, directory, transport, on_stream))
    facts = ledger.facts()
    changes_optimizer = config.resets_step and (_BEFORE | facts)["server_optimizer"] != config.optimizer
    _check_is_ours(config, facts, directory)
    if on_stream is not None and on_stream[0].run_id == facts["run_id"] and on_stream[0].epoch > facts["epoch"]:
        _go_beyond(on_stream[0].epoch, config, facts, directory, ledger)
    epoch = ledger.claim()
    if changes_optimizer:
        _change_optimizer(config, ledger, epoch)
    stepped = facts.get("stepped")
    if stepped is None:  # the run begins, or 0.1.0 began it
        stepped = sorted(spec.name for spec in specs if spec.is_float and spec.name in tensors.trained)
        ledger.record({"stepped": stepped})
    _go_back_to_sound_model(directory, ledger, tensors, specs, companions_of(config.step, specs, stepped))
    caps, part_bytes = [config.inline_cap], {MAX_PART_BYTES, config.part_bytes, *facts.get("part_bytes", ())}
    if on_stream is not None and on_stream[0].run_id == facts["run_id"]:
        caps.append(on_stream[0].cap(config.inline_cap))
        part_bytes.add(part_bytes_of(on_stream[0]))
    ledger.record({"part_bytes": sorted(part_bytes)})
    sent = _sent(config, specs, stepped)
    form = ModelForm(sent, config.downlink, config.correction.sets)
    if (config.correction.sets or not form.is_plain) and "base_sent_sha256" not in facts:
        base = directory.model(ledger.base_round())
        payload = base.pieces(specs) if sent is specs else with_control(base, None, specs, sent, population=0)
        ledger.record({"base_sent_sha256": _digest(sent, _read_by_workers(form, payload))})
    return Run(
        run_id=str(facts["run_id"]),
        epoch=epoch,
        specs=specs,
        sent=sent,
        form=form,
        inline_cap=min(caps),
        stepped=frozenset(stepped),
        part_bytes=frozenset(part_bytes),
        base_sha256=base_sha256,
        statistics=_statistics_in(facts),
        remembers_from=_remembers_from(ledger),
    )


def _sent(config: AggregatorConfig, specs: Specs, stepped: Collection[str]) -> Specs:
    """The specs of what travels with a head. A SettingsError if names of the model could be those of another set."""
    if not config.correction.sets:
        return specs
    taken = next((spec.name for spec in specs if spec.name.startswith(f"{CONTROL}/")), None)
    if taken is not None:
        raise SettingsError(f"--correction {config.correction}: the model has a tensor '{taken}'; give it another name")
    return tensor_sets.join_specs({tensor_sets.MODEL: specs, CONTROL: control_specs(specs, stepped)})


def _read_by_workers(form: ModelForm, pieces: Iterable[Buffer]) -> Iterator[Buffer]:
    """What is read from a body in this form that is made of these pieces."""
    writer = form.writer()
    for piece in pieces:
        yield from (read for read, _ in writer.pieces(piece))


def _digest(specs: Specs, pieces: Iterable[Buffer]) -> str:
    digest = Digest(specs)
    for piece in pieces:
        digest.add(piece)
    return digest.hex()


def _change_optimizer(config: AggregatorConfig, ledger: Ledger, epoch: int) -> None:
    """Records that the open round is stepped by another optimizer, which remembers nothing yet.

    Workers answer again, since the new one may ask for other figures.
    """
    number = ledger.last_closed_round() + 1
    before = ledger.facts().get("server_optimizer", _BEFORE["server_optimizer"])
    log.warning(
        "from round %d on the server's optimizer is %s, and no more %s: what it remembers begins anew, as"
        " --server-state reset says",
        number,
        config.optimizer,
        before,
    )
    ledger.record({"server_optimizer": config.optimizer, "optimizer_begins_with": number, "min_epoch": epoch})


def _remembers_from(ledger: Ledger) -> int:
    return int(ledger.facts().get("optimizer_begins_with", 0))


def _go_beyond(
    epoch: int, config: AggregatorConfig, facts: dict[str, Any], directory: StateDirectory, ledger: Ledger
) -> None:
    """Makes this start a later one than that with this epoch, if the directory is to be trusted; else a StateError."""
    if not config.trusts_state:
        raise StateError(
            f"{directory.folder} has seen {facts['epoch']} starts of run {facts['run_id']}, but the stream {epoch}:"
            " another aggregator led the run from its own directory, or somebody forged a model; give --trust-state to"
            " go on from this directory all the same, or an empty --state and --take-over to go on from the stream"
        )
    log.warning(
        "the stream has seen %d starts of run %s, %s only %d; going on from the directory, as --trust-state says",
        epoch,
        facts["run_id"],
        directory.folder,
        facts["epoch"],
    )
    if epoch + 1 < MAX_NUMBER:
        ledger.record({"epoch": epoch})
        ledger.record({"min_epoch": epoch + 1})  # workers that followed the other head are to answer again
    else:
        log.warning("no start can be later than that one: workers that have seen its model must be started again")


def newest_head(transport: Transport, trust: Trust) -> tuple[ModelHead, Buffer] | None:
    """The newest head on the stream and its payload; None if there is none that can be read and is an aggregator's."""
    body = transport.newest_head()
    if body is None:
        return None
    try:
        message = decode_from(body, ModelHead, trust=trust)
    except MessageError as error:
        log.warning("the newest message on the model stream is passed over: %s", error)
        return None
    return message.header, message.payload


def _beginning(
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
        **_encoding_facts(config),
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
    problem = difference(specs_of(initial), head.model_tensors)
    if head.shared != config.shared:
        problem = f"shares '{','.join(head.shared)}'"
    if head.seed != config.seed:
        problem = problem or f"has --seed {head.seed}"
    if head.compression != config.compression:
        problem = problem or f"has the compression {head.compression}"
    if config.statistics and config.statistics != head.statistics:
        problem = problem or "has other --statistics"
    if head.downlink != config.downlink:
        problem = problem or f"has --downlink {head.downlink}"
    if (head.correction or "none") != str(config.correction):
        problem = problem or f"has --correction {head.correction or 'none'}"
    if _masking_text(head.masking) != _masking_text(config.masking):
        problem = problem or f"has --privacy {_masking_text(head.masking)}"
    if (head.privacy is None) != (config.noising is None):
        problem = problem or f"has {'no noise' if head.privacy is None else 'noise (--dp-noise)'}"
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
        **_encoding_facts(config),
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


def _correction_facts(config: AggregatorConfig, head: ModelHead) -> dict[str, Any]:
    """What a run that is taken over goes on with: what the server kept is not on the stream, and so all begin anew."""
    if not config.correction:
        return {"correction": str(config.correction)}
    return {
        "correction": str(config.correction),
        "control_epoch": head.control_epoch + 1,
        "counted": head.counted.hex(),
    }


def _encoding_facts(config: AggregatorConfig) -> dict[str, Any]:
    """The settings that decide how a run's models and updates look, and by what rule; they cannot change under way."""
    compression, shared = config.compression, ",".join(config.shared)
    return {
        "compression": compression.text,
        "zstd": compression.zstd,
        "shared": shared,
        "robust": config.robust,
        "downlink": config.downlink,
        "privacy": _masking_text(config.masking),
        "noise": "none" if config.noising is None else config.noising.where,
    }


def _masking_text(masking: Masking | None) -> str:
    return "none" if masking is None else f"secure, ring{masking.bits}"


def _check_is_ours(config: AggregatorConfig, facts: dict[str, Any], directory: StateDirectory) -> None:
    facts = _BEFORE | facts
    wanted = {"run": config.run, "queue": config.topology.queue, "task": config.task, "seed": config.seed}
    wanted |= {"correction": str(config.correction)}
    if not config.resets_step:
        wanted["server_optimizer"] = config.optimizer
    for name, value in (wanted | _encoding_facts(config)).items():
        if facts[name] != value:
            raise StateError(
                f"{directory.folder} holds run '{facts['run']}' with --{name.replace('_', '-')} {facts[name]},"
                f" not {value}; give another --state, or the settings it began with{_or_reset(name)}"
            )
    if config.statistics and config.statistics != _statistics_in(facts):
        raise StateError(
            f"{directory.folder} holds run '{facts['run']}', which began with other --statistics or with none; leave"
            " them out, and it goes on as it began, or begin another run with another --state and --run"
        )


def _statistics_in(facts: dict[str, Any]) -> dict[str, tuple[float, ...]]:
    return {name: tuple(values) for name, values in facts.get("statistics", {}).items()}


def _or_reset(name: str) -> str:
    if name != "server_optimizer":
        return ""
    return ", or --server-state reset, and the other one begins with the open round"


def _check_began_from(config: AggregatorConfig, facts: dict[str, Any], directory: StateDirectory) -> None:
    """A StateError if ``--init`` names another file than that which the run in the directory began with."""
    began_from = facts.get("init_sha256")
    if config.init is None or (began_from is None and facts.get("is_taken_over")):  # then only its beginner knows
        return
    if began_from is None:
        raise StateError(
            f"{directory.folder} holds run '{facts['run']}', which goes on from its own model and did not begin with a"
            f" file; leave out --init {config.init}, or begin another run with another --state and --run"
        )
    if not config.init.exists():
        log.info("--init %s is not there any more; the run goes on from its own model", config.init)
        return
    sha256 = InitialModel(config.init).sha256()
    if sha256 != began_from:
        raise StateError(
            f"{directory.folder} holds run '{facts['run']}', which began with another --init: SHA-256"
            f" {began_from[:12]}…, and that of {config.init} is {sha256[:12]}…; leave --init out, and the run goes on"
            " from its own model, or begin another run with another --state and --run"
        )


def _check_has_tied_once(model: ModelFile, tensors: ModelTensors) -> None:
    """A StateError if it has a tied tensor under each of its names, as fedmq 0.1.0 wrote it."""
    names = {spec.name for spec in model.specs()} if tensors.others else set()
    for other, name in tensors.others.items():
        if other in names:
            raise StateError(
                f"the model in {model.path} has '{name}' and '{other}' apart, though they are one tensor (tied weights)"
                " as fedmq 0.1.0 sent them; end the run with that version, or begin another one with another --state"
                " and --run"
            )


def _go_back_to_sound_model(
    directory: StateDirectory, ledger: Ledger, tensors: ModelTensors, specs: Specs, companions: Collection[str]
) -> None:
    while True:
        last = ledger.last_closed_round()
        try:
            _check_has_tied_once(directory.model(last), tensors)
            directory.model(last).check(specs, ledger.model_sha256(last))
            _check_companions(directory, ledger, specs, companions, last)
            return
        except DamagedFile as error:
            if last == ledger.base_round():
                raise
            log.error("%s; doing round %d again from the model before", error, last)
            if ledger.undo_from(last):
                log.info("round %d goes on with the masked updates that it had; its keepers are asked once more", last)


def _check_companions(
    directory: StateDirectory, ledger: Ledger, specs: Specs, wanted: Collection[str], last: int
) -> None:
    """A DamagedFile unless the step's state after the last round is there; a StateError if it is another step's."""
    recorded = ledger.companions(last)
    if last < _remembers_from(ledger):  # they are another optimizer's, but for the master
        wanted = recorded = {name: sha256 for name, sha256 in recorded.items() if name == MASTER}
    is_of_0_1_0 = not recorded and set(wanted) == {MASTER}  # which kept none beside models in half precision
    if last > ledger.base_round() and recorded.keys() != set(wanted) and not is_of_0_1_0:
        raise StateError(
            f"{directory.folder} holds this step state for round {last}: {', '.join(sorted(recorded)) or 'nothing'};"
            f" this run's server step needs: {', '.join(sorted(wanted)) or 'nothing'}; use the one it began with"
        )
    for name, sha256 in recorded.items():
        directory.companion(last, name).check(companion_specs(name, specs), sha256)
