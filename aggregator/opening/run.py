"""Which run a state directory holds: one to resume, one taken over from the stream, or a new one."""

import logging
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from aggregator.config import AggregatorConfig
from aggregator.corrections import control_specs, with_control
from aggregator.opening.began_with import BEFORE, check_began_from, check_is_ours, remembers_from, statistics_in
from aggregator.opening.beginning import beginning
from aggregator.opening.on_stream import newest_head
from aggregator.opening.read_back import read_back
from aggregator.opening.sound_model import go_back_to_sound_model
from aggregator.rounds import companions_of, part_bytes_of
from aggregator.state import Ledger, StateDirectory
from broker import CONTROL, Transport
from broker.modules import ModelTensors
from broker.states import ModelForm, State, specs_of
from broker.wire import MAX_NUMBER, MAX_PART_BYTES, Buffer, Digest, Specs, tensor_sets
from console import SettingsError, StateError

log = logging.getLogger(__name__)


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
    The newest model is verified; if it is damaged, it is read back from the stream, or the run goes back to the one
    before. A StateError if the directory belongs to another run; and if it is empty while such a run is open, or behind
    the stream, unless the configuration says which of the two is to be believed.
    """
    specs = specs_of(initial)
    on_stream = newest_head(transport, config.membership.trust)
    if ledger.facts():
        check_began_from(config, ledger.facts(), directory)
    else:
        ledger.record(beginning(config, initial, tensors, directory, transport, on_stream))
    facts = ledger.facts()
    changes_optimizer = config.resets_step and (BEFORE | facts)["server_optimizer"] != config.optimizer
    check_is_ours(config, facts, directory)
    if on_stream is not None and on_stream[0].run_id == facts["run_id"] and on_stream[0].epoch > facts["epoch"]:
        _go_beyond(on_stream[0].epoch, config, facts, directory, ledger)
    epoch = ledger.claim()
    if changes_optimizer:
        _change_optimizer(config, ledger, epoch)
    stepped = facts.get("stepped")
    if stepped is None:  # the run begins, or 0.1.0 began it
        stepped = sorted(spec.name for spec in specs if spec.is_float and spec.name in tensors.trained)
        ledger.record({"stepped": stepped})
    sent = _sent(config, specs, stepped)
    go_back_to_sound_model(
        directory,
        ledger,
        tensors,
        specs,
        companions_of(config.step, specs, stepped),
        from_stream=lambda: read_back(directory, ledger, tensors, sent, transport, on_stream),
    )
    caps, part_bytes = [config.inline_cap], {MAX_PART_BYTES, config.part_bytes, *facts.get("part_bytes", ())}
    if on_stream is not None and on_stream[0].run_id == facts["run_id"]:
        caps.append(on_stream[0].cap(config.inline_cap))
        part_bytes.add(part_bytes_of(on_stream[0]))
    ledger.record({"part_bytes": sorted(part_bytes)})
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
        statistics=statistics_in(facts),
        remembers_from=remembers_from(ledger),
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
    before = ledger.facts().get("server_optimizer", BEFORE["server_optimizer"])
    log.warning(
        "from round %d on the server's optimizer is %s, and no more %s: what it remembers begins anew, as"
        " --server-state reset says",
        number,
        config.optimizer,
        before,
    )
    ledger.record({"server_optimizer": config.optimizer, "optimizer_begins_with": number, "min_epoch": epoch})


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
