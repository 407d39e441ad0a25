"""Opening a run: everything an aggregator needs for it that stays the same until it ends, made in one place."""

import contextlib
import functools
import logging
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from aggregator.bodies import Arrivals
from aggregator.commands import Steering
from aggregator.config import AggregatorConfig
from aggregator.corrections import Counting
from aggregator.events import RunOpened, Watcher
from aggregator.masking import Keepers, Released
from aggregator.noising import Spending, clips_in_reach
from aggregator.opening.broadcast import Broadcaster
from aggregator.opening.evaluation import CentralEvaluation
from aggregator.opening.run import Run, open_run
from aggregator.pairs import idle_in_evaluation
from aggregator.presence import NameConflicts
from aggregator.robust import Robust
from aggregator.rounds import Contribution, Expected, Stores, affordable_prefetch, largest_message
from aggregator.senders import Admission
from aggregator.state import BestSoFar, KeptBodies, Ledger, Retention, StateDirectory
from aggregator.sums import Summing, specs_of_updates
from broker import Source, Transport
from broker.modules import ModelTensors
from broker.states import Encoding, MaskedEncoding, State
from broker.wire import MAX_ANSWERS, MAX_TENSORS, Masking, Specs, num_bytes_of
from console import IS_SHOWN, SettingsError, malloc
from learning import Task, made_by, prepare

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenedRun:
    """What belongs to a run while an aggregator leads it, from its opening to its end."""

    run: Run
    steering: Steering
    """What people have asked of it, and so its configuration in each round."""
    stores: Stores
    """Where rounds are stored."""
    expected: Expected
    """What updates look like."""
    bodies: Arrivals[Contribution | Released]
    """The updates, partial sums and masks whose bodies are on their way."""
    prefetch: int
    """The most updates received but not yet acked."""
    broadcaster: Broadcaster
    evaluate: CentralEvaluation
    counting: Counting
    """What the correction goes by."""
    summing: Summing | None
    """How its updates become the next model; None: by their mean."""
    retention: Retention
    best: BestSoFar
    """By which it may end."""
    keepers: Keepers | None = None
    """Who holds the seeds of the masks of its updates; None: these are not masked."""
    spending: Spending | None = None
    """Its privacy budget; None: its models have no noise."""

    @property
    def has_large_model(self) -> bool:
        """Whether a model travels in a blob."""
        return self.broadcaster.has_large_model


def opened(
    config: AggregatorConfig,
    task: Task,
    transport: Transport,
    *,
    summing: Summing | None = None,
    admission: Admission,
    conflicts: NameConflicts,
    clock: Callable[[], float],
    on_event: Watcher,
) -> OpenedRun:
    """Opens or resumes the run. After an error, only the transport stays open.

    Where the answer of ``admission`` may change, what is folded from updates is kept until their round closes.
    """
    directory = StateDirectory(config.state)
    with contextlib.ExitStack() as on_error:
        ledger = Ledger(directory.ledger)
        on_error.callback(ledger.close)
        model = _initial_model(config, task)
        tensors = ModelTensors.of(model)
        specs = _shared(config, tensors)
        _check_membership(config, summing)
        _check_can_be_noised(config, specs, summing)
        encoding = _checked_encoding(config, specs_of_updates(specs, summing))
        prefetch = _prefetch(config, encoding)
        transport.declare()
        most_bytes = largest_message(
            encoding.encoded, sum_bytes=encoding.sum_bytes if config.topology.num_shards else None
        )
        transport.listen(Source.PRESENCE, Source.COMMANDS, Source.UPDATES, prefetch=prefetch, most_bytes=most_bytes)
        initial = _initial_state(tensors, model, specs)
        base = tensors.base_sha256(tensors.taken_from(model), specs)
        run = open_run(
            config, initial, tensors, directory=directory, ledger=ledger, transport=transport, base_sha256=base
        )
        directory.remove_unfinished()
        bodies = KeptBodies(config.state, encoding.encoded, epoch=run.epoch)
        bodies.remove_all(but=ledger.kept_files())
        prepare(task, run.statistics)
        steering = Steering(config, ledger)
        keeps_bodies = config.can_withdraw and admission.looks_every_s is not None
        limits = config.body_limits.in_files() if keeps_bodies else config.body_limits
        stores = Stores(
            epoch=run.epoch,
            directory=directory,
            ledger=ledger,
            bodies=bodies,
            keeps_bodies=keeps_bodies,
            transport=transport,
            encoding=encoding,
            new_accumulator=config.new_accumulator,
            stepped=run.stepped,
            tells_of_sites=config.masking is None and config.noising is None,
            clock=clock,
            on_event=on_event,
        )
        _tell_of_robust(config)
        _tell_what_is_idle(config)
        _tell_of_downlink(config)
        _emit_opened(steering.config_of(ledger.last_closed_round() + 1), run, ledger, on_event)
        counting = Counting(config.correction, ledger)
        spending = None if config.noising is None else Spending(config.noising, ledger)
        result = OpenedRun(
            run=run,
            steering=steering,
            stores=stores,
            expected=_expected(config, run, encoding, ledger),
            bodies=Arrivals(transport, folder=config.state, limits=limits, clock=clock, on_event=on_event),
            prefetch=prefetch,
            broadcaster=Broadcaster(run, config, stores, conflicts, steering, counting, summing, spending),
            counting=counting,
            evaluate=CentralEvaluation(task, model, tensors),
            summing=summing,
            retention=Retention(directory, ledger, aim=config.ending.aim, keep_every=config.keep_every),
            best=BestSoFar(ledger),
            keepers=_keepers(config, run, encoding, transport),
            spending=spending,
        )
        on_error.pop_all()
    del model, initial
    if result.has_large_model:
        malloc.give_back()
    return result


def _initial_model(config: AggregatorConfig, task: Task) -> nn.Module:
    torch.manual_seed(config.seed)
    return made_by(task.model)


def _shared(config: AggregatorConfig, tensors: ModelTensors) -> Specs:
    """The specs of the tensors that travel; says what cannot."""
    try:
        specs = tensors.shared(config.shared)
    except ValueError as error:
        raise SettingsError(f"--shared: {error}") from error
    stays = tensors.what_stays()
    if stays:
        log.warning("not averaged, since it cannot travel: %s; each site has its own", stays)
    return specs


def _initial_state(tensors: ModelTensors, model: nn.Module, specs: Specs) -> State:
    """The shared tensors of the model that a new run begins with."""
    state = tensors.taken_from(model)
    return {spec.name: state[spec.name] for spec in specs}


def _check_membership(config: AggregatorConfig, summing: Summing | None) -> None:
    """A SettingsError if masked updates are asked for, and nothing shows whose they are or who keeps the seeds."""
    if config.masking is None:
        return
    if summing is not None:
        raise SettingsError("--privacy secure is for models; what this task sums up would be in no range that is known")
    rosters = config.membership.rosters
    if rosters is None:
        raise SettingsError(
            "--privacy secure needs --roster and --key: without signatures, whoever runs the broker could be all"
            " sites but one"
        )
    roster = rosters.current()
    missing = [name for name in config.masking.keepers if name not in roster.keepers]
    if missing:
        raise SettingsError(
            f"--keeper {', '.join(missing)}: no such keeper is on the roster; its keys are made by"
            " fl-keys new --role keeper, where it runs, and put on by fl-keys roster"
        )
    if roster.min_sites > config.masking.min_sites:
        raise SettingsError(f"--min-sites {config.masking.min_sites}: the roster asks for at least {roster.min_sites}")


def _check_can_be_noised(config: AggregatorConfig, specs: Specs, summing: Summing | None) -> None:
    """A SettingsError if the run adds noise to what has no norm to be clipped to."""
    if config.noising is None:
        return
    if summing is not None:
        raise SettingsError("--dp-noise is for models; of what this task sums up, one site's part has no bound")
    whole = next((spec.name for spec in specs if not spec.is_float), None)
    if whole is not None:
        raise SettingsError(
            f"--dp-noise: the tensor '{whole}' counts in whole numbers, which no norm bounds; leave it at the sites"
            f" with --shared '!{whole}'"
        )
    clip, noise = config.noising.budget.clip, config.noising.budget.noise
    least, most = clips_in_reach(config.noising, config.masking, fewest=config.policy.min_updates)
    if not least <= clip <= most:
        raise SettingsError(
            f"--dp-clip {clip:g} with --dp-noise {noise:g}: the integers of the sum have room for noise with a clip"
            f" from {least:.3g} to {most:.3g}; choose another clip{_or_ring64(config.masking)}"
        )


def _or_ring64(masking: Masking | None) -> str:
    return ", or --ring ring64" if masking is not None and masking.bits == 32 else ""


def _keepers(
    config: AggregatorConfig, run: Run, encoding: Encoding | MaskedEncoding, transport: Transport
) -> Keepers | None:
    if config.masking is None:
        return None
    return Keepers(
        masking=config.masking,
        run_id=run.run_id,
        specs=encoding.encoded,
        transport=transport,
        trust=config.membership.trust,
        wait_s=config.keeper_wait_s,
    )


def _checked_encoding(config: AggregatorConfig, specs: Specs) -> Encoding | MaskedEncoding:
    """How updates with these specs travel."""
    if config.masking is not None:
        terms = None if config.noising is None else config.noising.terms(config.noising.budget)
        try:
            return MaskedEncoding(specs, config.masking, terms)
        except ValueError as error:
            raise SettingsError(f"--privacy secure: {error}") from error
    encoding = Encoding(specs, config.compression)
    if len(encoding.encoded) > MAX_TENSORS:
        raise SettingsError(
            f"--compression {config.compression.text} makes {len(encoding.encoded)} tensors of the model's"
            f" {len(specs)}; at most {MAX_TENSORS} can travel"
        )
    if config.topology.num_shards and not config.new_accumulator(()).takes_sums:
        raise SettingsError(
            "--shards sums updates on their way, but this run needs each update by itself; leave --shards out"
        )
    return encoding


def _tell_of_robust(config: AggregatorConfig) -> None:
    """Says what a robust rule means for the run, and warns where it may close rounds with few updates."""
    rule, fewest = Robust.parse(config.robust).rule, config.policy.target(0)
    if rule is None:
        return
    log.info(
        "robust: %s over the updates of a round, at least %d, each of which weighs the same", config.robust, fewest
    )
    if fewest < rule.fewest_advised:
        log.warning(
            "a round may close with %d updates, and where data differ from site to site --robust %s leaves many out"
            " unless it has %d to compare; give --min-updates %d, or see docs/algorithms.md for other rules",
            fewest,
            config.robust,
            rule.fewest_advised,
            rule.fewest_advised,
        )


def _tell_what_is_idle(config: AggregatorConfig) -> None:
    """Warns of settings of training in a run that only evaluates."""
    idle = idle_in_evaluation(config.recorded) if config.ending.only_evaluates else []
    if idle:
        log.warning("--evaluate-only trains nothing, and so these have no effect: %s", ", ".join(idle))


def _tell_of_downlink(config: AggregatorConfig) -> None:
    if config.downlink != "none":
        log.info(
            "downlink: models travel in %s, and workers train from, measure and keep what they are rounded to; in full"
            " they are in %s",
            config.downlink,
            config.state / "models",
        )


def _prefetch(config: AggregatorConfig, encoding: Encoding | MaskedEncoding) -> int:
    sizes = [num_bytes_of(encoding.encoded)]
    if config.topology.num_shards:
        sizes.append(encoding.sum_bytes)
    return affordable_prefetch(sizes, config.inline_cap)


def _expected(config: AggregatorConfig, run: Run, encoding: Encoding | MaskedEncoding, ledger: Ledger) -> Expected:
    @functools.lru_cache(maxsize=4)  # asked for each update, and a closed round does not change
    def model_sha256(number: int) -> str | None:
        return ledger.sent_sha256(number - 1) if number > ledger.base_round() else None

    return Expected(
        run.run_id,
        encoding,
        config.topology,
        run.part_bytes,
        model_sha256=model_sha256,
        membership=config.membership,
        base_sha256=run.base_sha256,
        requires_same_base=config.requires_same_base,
    )


def _emit_opened(config: AggregatorConfig, run: Run, ledger: Ledger, on_event: Watcher) -> None:
    log.info(
        "run %s, queue '%s', state in %s",
        run.run_id,
        config.topology.queue,
        config.state,
        extra={"run_id": run.run_id, "queue": config.topology.queue, IS_SHOWN: True},
    )
    on_event(
        RunOpened(
            run=config.run,
            run_id=run.run_id,
            queue=config.topology.queue,
            state=config.state,
            num_rounds=config.ending.rounds,
            last_closed_round=ledger.last_closed_round(),
            closed=list(ledger.rounds()),
            aim=config.ending.aim,
            commands=ledger.commands(most=MAX_ANSWERS),
            outvoted=ledger.outvoted(),
        )
    )
