"""The worker: takes the newest model, trains it on its own data, publishes the update, and so on.

Nobody registers it and nobody waits for it. ``step()`` handles one event; ``run()`` goes on until the run is finished.
"""

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import cast

from torch import nn

from broker import CONTROL, Source, Transport
from broker.states import Encoding, ModelForm, State, read_model, specs_of
from broker.wire import (
    MAX_OBJECTION,
    Buffer,
    ModelHead,
    Presence,
    difference,
    tensor_sets,
)
from console import (
    IDLE_BEAT_S,
    BlobLost,
    BrokerUnreachable,
    StateError,
    TaskError,
    UnfitMessage,
    malloc,
    metrics_text,
)
from learning import Measured, Plan, Task
from learning.sums import Layout, StatisticsTask
from worker.algorithms import PERSONAL, Correcting, misfit_of_control, own_model
from worker.config import WorkerConfig
from worker.events import (
    ModelReceived,
    NotChosen,
    RoundLeft,
    RoundTrained,
    RunFinished,
    Watcher,
    unwatched,
)
from worker.masking import WITHIN, misfit_of_masking
from worker.requirements import check_can_take_part
from worker.rounds import (
    Answers,
    Diverged,
    Heard,
    NoUpdate,
    SignsOfLife,
    Trained,
    Trainer,
    decoded,
    derived_seed,
    norm_of,
    plan_of,
)
from worker.state import (
    HOME,
    RESIDUAL,
    Carried,
    InMemory,
    Memory,
    OwnNoise,
    OwnResults,
    Positions,
    Store,
    save_model,
)

log = logging.getLogger(__name__)


class Worker:
    """One worker, from its start until the run it takes part in is finished.

    ``model`` is the module to train, by default a new one of the task's. ``beat`` is called with every turn of the
    loop, and whenever the task asks whether its round is over.
    """

    def __init__(
        self,
        config: WorkerConfig,
        task: Task,
        transport: Transport,
        *,
        carried: Store | None = None,
        results: OwnResults | None = None,
        positions: Positions | None = None,
        noise: OwnNoise | None = None,
        model: nn.Module | None = None,
        on_event: Watcher = unwatched,
        announce_soon: Callable[[], None] | None = None,
        beat: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.is_finished = False
        self._name = config.name
        self._stays, self._grace_s, self._clock = config.stays, config.grace_s, clock
        self._leaves_at: float | None = None
        """When it leaves a run that was finished before it came, unless there is more by then."""
        self._membership, self._policy = config.membership, config.policy
        self._noise = noise
        self._transport = transport
        self._queue, self._inline_cap = config.topology.queue, config.inline_cap
        self._task = task
        self._trainer = self._own_trainer = Trainer(task, devices=config.devices, model=model)
        self._statistics: tuple[str, Trainer] | None = None
        """The run that statistics are of, and what takes them."""
        self._carried: Store = carried or InMemory()
        self._results, self._save_model = results, config.save_model
        self._lacks_model = True
        self._on_event = on_event
        trust = config.membership.trust
        self._life = SignsOfLife(
            name=config.name,
            every_s=config.presence_every_s,
            transport=transport,
            trust=trust,
            on_event=on_event,
            announce_soon=announce_soon,
        )
        self._heard = Heard(name=config.name, run=config.run, trust=trust, positions=positions or Positions())
        self._answers = Answers(
            name=config.name,
            instance=self.presence.instance,
            transport=transport,
            topology=config.topology,
            inline_cap=config.inline_cap,
            membership=config.membership,
            min_sites=config.policy.min_sites,
            noise=noise,
            is_over=self._is_over,
            on_event=on_event,
        )
        self._beat = beat
        self._is_stopping = False
        self._was_told_of_memory = False
        self._base_of_run = ""
        self._base_sha256: str | None = None
        """The digest of the frozen parameters that stay here, in that run."""

    # -- the loop -------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Subscribes to the models; the newest one comes at once."""
        self._transport.listen(Source.MODELS)
        self._life.set("idle", at_once=True)
        devices = ", ".join(self._trainer.devices)
        log.info("worker %s joins queue '%s', trains on %s", self._name, self._queue, devices)

    def run(self) -> None:
        """Steps until the run is finished, or ``stop`` is called."""
        try:
            while not self.is_finished and not self._is_stopping:
                self._beat()
                self.step(self._time_left())
        except BrokerUnreachable as error:
            if not self._is_stopping:
                raise
            log.warning("the last update was not sent: %s", error)
        self._life.set("leaving", at_once=True)
        self._transport.close()
        log.info("worker %s leaves%s", self._name, ": the run is finished" if self.is_finished else "")
        if self.is_finished and self._save_model is not None and self._lacks_model:
            raise StateError(f"the run is finished, but {self._save_model} was not written; the log says why")

    def _time_left(self) -> float:
        if self._leaves_at is None:
            return IDLE_BEAT_S
        return min(IDLE_BEAT_S, max(0.0, self._leaves_at - self._clock()))

    def stop(self) -> None:
        """Ends ``run`` before the next batch. May be called from a signal handler."""
        self._is_stopping = True
        self._transport.give_up_waiting()
        self._transport.wake()

    def step(self, timeout_s: float | None = 0.0) -> bool:
        """Handles the next event if one comes within ``timeout_s``; True if one came."""
        delivery = self._transport.receive(timeout_s)
        if delivery is None and not self._heard.has_news:
            self.is_finished = self.is_finished or self._has_waited()
            return False
        if delivery is not None:
            self._heard.hear(delivery)
        while self._heard.has_news and not self._is_stopping:
            before = self._heard.done
            self._take_part(*self._heard.take(), before=before)
        return True

    # -- one round ------------------------------------------------------------------------------------------

    def _take_part(self, head: ModelHead, payload: Buffer, *, before: ModelHead | None) -> None:
        """Answers this head, or leaves it; ``before`` is the one that was taken up last."""
        if head.is_finished:
            if head.purpose == "statistics":
                self._keep_nothing(head)
            else:
                self._keep_final(head, payload)
            self._finish(head, is_first=before is None)
            return
        self._leaves_at = None
        self._life.follow(head.presence_every_s)
        check_can_take_part(
            head,
            keeps_state=self._carried.is_lasting,
            adds_noise=self._noise is not None,
            has_roster=self._membership.has_roster,
            trains_once=getattr(self._task, "trains_once", False),
        )
        self._trainer = self._trainer_for(head)
        objection = self._objection_to(head)
        if objection:
            self._object(head, objection)
            return
        if not head.chooses(self._name):
            self._sit_out(head)
            return
        if before is not None and before.chooses(self._name) and _is_same_round(before, head):
            return  # others were chosen because nobody was there, but this worker was, and has answered
        begun_at = time.perf_counter()
        try:
            sets = self._read(head, payload)
        except BlobLost as error:
            log.info("round %3d: %s; a newer model is on its way", head.round, error)
            self._heard.done = before
            return
        except UnfitMessage as error:
            log.warning("round %3d: the model is dropped: %s", head.round, error)
            self._heard.done = before
            return
        self._on_event(
            ModelReceived(head=head, num_bytes=ModelForm.of(head).num_bytes, seconds=time.perf_counter() - begun_at)
        )
        if head.num_bytes > head.cap(self._inline_cap):
            malloc.give_back()  # the parts of the model, before training takes its memory
        self._train_and_send(head, sets)

    def _sit_out(self, head: ModelHead) -> None:
        """Leaves a round to others, whose model is not read. Its next sign of life says so.

        One is sent for it only if nobody is chosen yet: then the aggregator wants to know who is there.
        """
        self._life.set_round(head.round)
        is_asked = head.draw is not None and head.draw.number == 0
        if is_asked:
            self._life.say_soon()
        words = "nobody is chosen yet" if is_asked else "others are chosen"
        log.info("round %3d: %s; waiting", head.round, words, extra={"round": head.round})
        self._on_event(NotChosen(head=head))

    def _objection_to(self, head: ModelHead) -> str | None:
        tensors, rosters = self._trainer.tensors, self._membership.rosters
        return (
            self._policy.objection_to(head, trained=lambda: tensors.trained, others=tensors.others)
            or misfit_of_masking(head, None if rosters is None else rosters.current())
            or self._has_spent(head)
        )

    def _has_spent(self, head: ModelHead) -> str | None:
        """Why there is no noise of this worker's own left for a round, whose model it can still keep."""
        privacy = head.privacy
        if privacy is None or privacy.where != "local" or self._noise is None or head.is_finished:
            return None
        return self._noise.objection(head.run_id, head.round, privacy)

    def _read(self, head: ModelHead, payload: Buffer) -> dict[str, State]:
        """The model with this head, and the sets that come with it, by name.

        Both are first checked against the task's: TaskError if they do not fit.
        """
        self.check_fits(head)
        trained = self._trainer.tensors.trained
        state = read_model(head, payload, self._transport, trained=trained, on_event=self._on_event)
        return tensor_sets.split(state, head.sets)

    def _trainer_for(self, head: ModelHead) -> Trainer:
        """What answers this head: the task, or statistics of its samples."""
        if head.purpose != "statistics":
            return self._own_trainer
        if self._statistics is None or self._statistics[0] != head.run_id:
            layout = Layout.shaped_like({spec.name: spec.shape for spec in head.tensors})
            self._statistics = head.run_id, Trainer(cast(Task, StatisticsTask(self._task, layout)))
        return self._statistics[1]

    def check_fits(self, head: ModelHead) -> None:
        """TaskError if a model with this head does not fit the task's."""
        self._trainer = self._trainer_for(head)
        misfit = self._trainer.misfit(head.model_tensors, head.shared) or misfit_of_control(
            head, self._trainer.tensors.trained
        )
        if misfit:
            raise TaskError(f"the model of run {head.run_id} {misfit}; is --task the one that the aggregator has?")

    def _finish(self, head: ModelHead, *, is_first: bool) -> None:
        """Ends the run here; whether the worker leaves is another question. ``is_first``: it took no part in it."""
        log.info("run %s is finished after %d rounds", head.run_id, head.round - 1)
        self._answers.delete_last_blob(head)
        self._on_event(RunFinished(run_id=head.run_id, num_rounds=head.round - 1))
        if self._stays:
            log.info("waiting for more of it or for the next run, as --stay says")
        elif is_first and self._grace_s:
            self._leaves_at = self._clock() + self._grace_s
            log.info(
                "waiting %g s for an aggregator that goes on, then leaving; --stay waits for longer", self._grace_s
            )
        else:
            self.is_finished = True

    def _keep_nothing(self, head: ModelHead) -> None:
        """Statistics are no model: nothing is missing because of them."""
        if self._save_model is not None:
            self._lacks_model = False
            log.warning(
                "run %s took statistics, of which there is no model: %s is not written; --stay waits for the next run",
                head.run_id,
                self._save_model,
            )

    def _keep_final(self, head: ModelHead, payload: Buffer) -> None:
        """Keeps the final model as it stands here, if that is wanted; a warning says why it cannot be had."""
        if self._results is None and self._save_model is None:
            return
        self._lacks_model = True
        try:
            state = self._final(head, payload)
        except (BlobLost, UnfitMessage, TaskError) as error:
            log.warning("the final model of run %s is not kept here: %s", head.run_id, error)
            return
        if self._results is not None:
            self._results.finished(head.run_id, head.round - 1, state)
        if self._save_model is not None:
            save_model(self._save_model, state, round_number=head.round - 1, run_id=head.run_id, metrics={})
            self._lacks_model = False
            log.info(
                "the final model of run %s as it stands here is in %s%s",
                head.run_id,
                self._save_model,
                "" if head.downlink == "none" else f", as it travels in {head.downlink}; the aggregator has it in full",
            )

    def _final(self, head: ModelHead, payload: Buffer) -> State:
        """The final model with the tensors that stay here."""
        objection = self._objection_to(head)
        if objection:
            raise UnfitMessage(objection)
        state = self._read(head, payload)[tensor_sets.MODEL]
        carried = self._kept(head)
        if carried is None:
            carried = self._fresh(head)
            _warn_of_untrained(head, carried)
        return self._whole(head, state, carried)

    def _has_waited(self) -> bool:
        """Whether nothing came while it waited for more of a run that was finished when it started."""
        return self._leaves_at is not None and self._clock() >= self._leaves_at

    def _object(self, head: ModelHead, objection: str) -> None:
        """Leaves a head unanswered, and says why at both ends."""
        if objection[:MAX_OBJECTION] != self.presence.objection:
            log.error("run %s is not answered: %s", head.run_id, objection)
            self._on_event(RoundLeft(round=head.round, reason=objection))
        self._life.set("idle", head.round, objection=objection)

    def _kept(self, head: ModelHead) -> Carried | None:
        """What is carried into a round: out of the last one, or, where it has to, out of the last that counted."""
        if head.correction is None:
            return self._carried.before(head.run_id, head.round)
        counted = head.last_counted(self._name)
        return None if counted is None else self._carried.after(head.run_id, counted)

    def _train_and_send(self, head: ModelHead, sets: Mapping[str, State]) -> None:
        self._life.set("training", head.round)
        kept = self._kept(head)
        carried = self._fresh(head) if kept is None else kept
        state = self._whole(head, sets[tensor_sets.MODEL], carried)
        self._look_at_base(head, state)
        self._trainer.prepare(head.statistics)
        correcting = self._correcting(head, state, sets.get(CONTROL, {}), carried, is_lost=kept is None)
        measured = self._trainer.evaluate(state)
        if correcting is not None and correcting.personal is not None:
            measured = self._trainer.evaluate_own(own_model(carried, state), beside=measured)
        if self._results is not None and head.purpose != "statistics":
            self._results.measured(head.run_id, head.round - 1, state, measured.metrics)
        if head.only_evaluate:
            if kept is None:
                _warn_of_untrained(head, carried)
            self._answers.reply(head, "measured", measured)
            shown = metrics_text(measured.metrics)
            log.info("round %3d → measured the last model  %s", head.round - 1, shown)
            self._life.set("idle", head.round)
            return
        cancel = _Cancel(lambda: self._is_over(head))
        memory = Memory(carried)
        begun_at = time.perf_counter()
        try:
            plan = self._plan(head, cancel, memory)
            trained = self._answer_to(head, state, plan, correcting)
            own_state = self._train_own(state, plan, carried, correcting)
            if not cancel.was_seen:
                self._send(head, trained, measured, before=carried, memory=memory, correcting=correcting, own=own_state)
            elif not self._is_stopping:
                self._leave_round(head, f"is over; training stopped after {trained.train_s:.2f} s")
        except NoUpdate as error:
            self._leave_round(head, f"no update of '{self._name}': {error}", level=logging.ERROR)
            self._answers.reply(head, "diverged", measured, reason=str(error), train_s=time.perf_counter() - begun_at)
        except BlobLost:
            self._carried.forget(head.run_id, head.round)
            self._leave_round(head, "is over; the update was not sent to its end")
        self._life.set("idle", head.round)

    def _correcting(
        self, head: ModelHead, state: State, control: State, carried: Carried, *, is_lost: bool
    ) -> Correcting | None:
        """The correction in this round; None without one. ``is_lost``: nothing was carried into it."""
        counted = head.last_counted(self._name)
        is_lost = is_lost and counted is not None
        if is_lost:
            log.warning("what was carried out of round %d is lost: beginning with nothing", counted)
        trained = self._trainer.tensors.trained
        return Correcting.begun(head, state, control, carried, trained=trained, is_lost=is_lost)

    def _train_own(self, state: State, plan: Plan, carried: Carried, correcting: Correcting | None) -> State:
        """The site's own model after this round, where the correction has one; what the task remembers stays."""
        if correcting is None or correcting.personal is None or plan.cancelled():
            return {}
        plan = replace(plan, memory=Memory(carried), figures=frozenset())
        return self._trainer.own(own_model(carried, state), plan, correcting.personal)

    def _answer_to(self, head: ModelHead, state: State, plan: Plan, correcting: Correcting | None) -> Trained:
        """What this site makes of a model, as the head asks for."""
        if head.purpose == "train":
            terms = None if correcting is None else correcting.terms
            return self._trainer.train(state, plan, head.model_tensors, terms=terms)
        return self._trainer.sums(state, plan, head.operations)

    def _leave_round(self, head: ModelHead, reason: str, *, level: int = logging.INFO) -> None:
        log.log(level, "round %3d: %s", head.round, reason, extra={"round": head.round, "reason": reason})
        self._on_event(RoundLeft(round=head.round, reason=reason))

    def _fresh(self, head: ModelHead) -> Carried:
        """What is carried into the first round of a run."""
        home = self._trainer.home(head.model_tensors, seed=head.seed)
        if home:
            log.info("run %s shares %d tensors; %d stay here", head.run_id, len(head.model_tensors), len(home))
        stays = self._trainer.tensors.what_stays()
        if stays:
            log.warning("not averaged, and not kept over a restart of this worker: %s", stays)
        if home and not self._carried.is_lasting:
            log.warning("the tensors that stay here are lost when this worker is restarted; --state keeps them")
        return Carried({HOME: home})

    def _look_at_base(self, head: ModelHead, state: State) -> None:
        """Notes which frozen parameters this site trains with, once a run, and says if the aggregator has others."""
        if self._base_of_run == head.run_id:
            return
        self._base_of_run = head.run_id
        self._base_sha256 = self._trainer.tensors.base_sha256(state, head.model_tensors)
        if self._base_sha256 and head.base_sha256 and self._base_sha256 != head.base_sha256:
            log.warning(
                "the frozen parameters here are not those of the aggregator (digest %s, there %s): what is trained on"
                " top of them does not fit together; see that all sites load the same base",
                self._base_sha256[:12],
                head.base_sha256[:12],
            )

    def _warn_of_lost_memory(self) -> None:
        if not self._carried.is_lasting and not self._was_told_of_memory:
            self._was_told_of_memory = True
            log.warning("what the task keeps in plan.memory is lost when this worker is restarted; --state keeps it")

    def _whole(self, head: ModelHead, state: State, carried: Carried) -> State:
        """The model with the tensors that stay here."""
        if not carried.home:
            return state
        others = self._trainer.tensors.others
        whole = {**state, **{name: tensor for name, tensor in carried.home.items() if name not in others}}
        misfit = difference(self._trainer.specs, specs_of(whole))
        if misfit:
            raise TaskError(f"with what was kept of run {head.run_id}, the model {misfit}; was --task another one?")
        return whole

    def _plan(self, head: ModelHead, cancel: "_Cancel", memory: Memory) -> Plan:
        return plan_of(
            head.local,
            round=head.round,
            num_rounds=head.num_rounds,
            seed=derived_seed(head.seed, head.round, self._name),
            device=self._trainer.device,
            cancelled=cancel,
            progress=self._life.set_progress,
            memory=memory,
            figures=frozenset(head.figures) - {"norm", WITHIN},
            statistics=self._trainer.prepare(head.statistics),
        )

    def _is_over(self, head: ModelHead) -> bool:
        """Whether an update for this round can still count; looks at what has come meanwhile."""
        self._beat()
        while (delivery := self._transport.receive(0)) is not None:
            self._heard.hear(delivery)
        return self._is_stopping or self._heard.has_ended(head)

    def _send(
        self,
        head: ModelHead,
        trained: Trained,
        measured: Measured,
        *,
        before: Carried,
        memory: Memory,
        correcting: Correcting | None,
        own: State,
    ) -> None:
        encoding = self._answers.encoding_for(head)
        self._life.set("sending", head.round, at_once=not self._answers.is_inline(head))  # it may die half way
        compressed, limits = self._answers.encoded(head, trained, measured, before.residual)
        after = Carried({RESIDUAL: compressed.residual, HOME: trained.home, PERSONAL: own, **memory.sets()})
        counted = None
        if correcting is not None and isinstance(encoding, Encoding):
            delta = dict(decoded(compressed, encoding, correcting.received))
            try:
                after = after.with_sets(correcting.after(delta, lr=head.local.lr, figures=trained.figures))
            except OverflowError as error:
                raise Diverged(f"what --correction {head.correction} carries: {error}") from error
            counted = head.last_counted(self._name) or 0
        if before or after:  # before sending: after a kill in between, the round is done again
            self._carried.keep(head.run_id, head.round, before=before, after=after, counted=counted)
        if memory:
            self._warn_of_lost_memory()
        self._on_event(
            RoundTrained(
                round=head.round,
                num_samples=trained.num_samples,
                train_s=trained.train_s,
                metrics=trained.metrics,
                eval_metrics=measured.metrics,
            )
        )
        figures = dict(trained.figures)
        if "norm" in head.figures and isinstance(encoding, Encoding):
            figures["norm"] = norm_of(compressed, encoding, self._trainer.tensors.trained)
        self._answers.send_update(
            head,
            compressed,
            trained,
            measured,
            figures=figures,
            limits=limits,
            base_sha256=self._base_sha256,
            is_fresh=correcting is not None and correcting.is_fresh,
        )

    # -- signs of life --------------------------------------------------------------------------------------

    @property
    def presence(self) -> Presence:
        """What the worker is doing; announced when it changes, and at intervals."""
        return self._life.newest

    @property
    def presence_every_s(self) -> float:
        """The seconds between two calls of ``announce``; more than configured where many workers are there."""
        return self._life.every_s

    @property
    def presence_spread_s(self) -> float:
        """Within how long ``announce`` is called when it is asked for soon."""
        return self._life.spread_s

    def announce(self) -> None:
        """Sends a sign of life. May be called from any thread."""
        self._life.announce()


class _Cancel:
    """Asks whether the round is over, and remembers a yes: what is trained is then of no use."""

    def __init__(self, is_over: Callable[[], bool]) -> None:
        self.was_seen = False
        self._is_over = is_over

    def __call__(self) -> bool:
        self.was_seen = self.was_seen or self._is_over()
        return self.was_seen


def _is_same_round(before: ModelHead, head: ModelHead) -> bool:
    """Whether two heads, of which the later one has another draw, ask for the same update."""
    return (before.run_id, before.epoch, before.round) == (head.run_id, head.epoch, head.round) and (
        before.draw != head.draw
    )


def _warn_of_untrained(head: ModelHead, fresh: Carried) -> None:
    """Says that this site has nothing of its own in a model of which some tensors stay at the sites."""
    if fresh.home:
        log.warning("the tensors of run %s that stay here were never trained here", head.run_id)
