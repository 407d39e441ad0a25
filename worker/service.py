"""The worker: takes the newest model, trains it on its own data, publishes the update, and so on.

Nobody registers it and nobody waits for it. ``step()`` handles one event; ``run()`` goes on until the run is finished.
"""

import logging
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal, cast

from torch import nn

from broker import CONTROL, Delivery, Ditto, Source, Transport
from broker.states import Encoding, MaskedEncoding, State, read_model, specs_of
from broker.wire import (
    MAX_OBJECTION,
    PRESENCE_EVERY_S,
    Buffer,
    ModelHead,
    Presence,
    Reply,
    UpdateHead,
    decode_from,
    difference,
    encode,
    names_of,
    num_bytes_of,
    tensor_sets,
)
from console import (
    BlobLost,
    BrokerUnreachable,
    MessageError,
    SettingsError,
    StateError,
    TaskError,
    UnfitMessage,
    malloc,
    metrics_text,
)
from learning import AT_SITES, IN_TRAINING, Measured, Plan, Task, finite, not_finite, plain
from learning.sums import Layout, StatisticsTask
from worker.algorithms import PERSONAL, Correcting, correction_of, misfit_of_control, own_model
from worker.config import WorkerConfig
from worker.error_feedback import Compressed, compress, decoded, norm_of
from worker.events import (
    ModelReceived,
    NotChosen,
    RoundLeft,
    RoundTrained,
    RunFinished,
    StateChanged,
    UpdateSent,
    Watcher,
    unwatched,
)
from worker.masking import WITHIN, CannotBeSummed, covered, integers_of, limited, misfit_of_masking, sealed_seeds
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
from worker.trainer import Diverged, NoUpdate, Trained, Trainer, derived_seed, plan_of
from worker.upload import Body, Uploader

log = logging.getLogger(__name__)

_MAX_UPLOADS = 5
"""Uploads of one update, if its blob is lost on the way each time."""


class Worker:
    """One worker, from its start until the run it takes part in is finished.

    ``model`` is the module to train, by default a new one of the task's.
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
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.is_finished = False
        is_usual = config.presence_every_s == PRESENCE_EVERY_S
        every_s = None if is_usual else config.presence_every_s  # None is what 0.1.0 understands
        self.presence = Presence(worker=config.name, instance=secrets.token_hex(8), state="idle", every_s=every_s)
        """What the worker is doing; announced when it changes, and at intervals."""
        self._name, self._run = config.name, config.run
        self._stays, self._grace_s, self._clock = config.stays, config.grace_s, clock
        self._leaves_at: float | None = None
        """When it leaves a run that was finished before it came, unless there is more by then."""
        self._membership, self._policy = config.membership, config.policy
        self._trust = config.membership.trust
        self._positions = positions or Positions()
        self._noise = noise
        self._transport = transport
        self._topology, self._inline_cap = config.topology, config.inline_cap
        self._task = task
        self._trainer = self._own_trainer = Trainer(task, device=config.device, model=model)
        self._statistics: tuple[str, Trainer] | None = None
        """The run that statistics are of, and what takes them."""
        self._carried: Store = carried or InMemory()
        self._results, self._save_model = results, config.save_model
        self._lacks_model = True
        self._encoding: Encoding | MaskedEncoding | None = None
        self._on_event = on_event
        self._uploader = Uploader(
            name=config.name,
            instance=self.presence.instance,
            transport=transport,
            topology=config.topology,
            inline_cap=config.inline_cap,
            sealing=config.membership.sealing,
            on_event=on_event,
        )
        self._announce_soon = announce_soon or self.announce
        self._newest: tuple[ModelHead, Buffer] | None = None
        self._done: ModelHead | None = None
        self._last_blob = ("", "")
        """(run id, name) of the last blob written."""
        self._is_stopping = False
        self._was_told_of_conflict = False
        self._was_told_of_memory = False
        self._base_of_run = ""
        self._base_sha256: str | None = None
        """The digest of the frozen parameters that stay here, in that run."""
        self._skipped_run_id: str | None = None

    # -- the loop -------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Subscribes to the models; the newest one comes at once."""
        self._transport.listen(Source.MODELS)
        self._set_state("idle", at_once=True)
        log.info("worker %s joins queue '%s', trains on %s", self._name, self._topology.queue, self._trainer.device)

    def run(self) -> None:
        """Steps until the run is finished, or ``stop`` is called."""
        try:
            while not self.is_finished and not self._is_stopping:
                self.step(None if self._leaves_at is None else max(0.0, self._leaves_at - self._clock()))
        except BrokerUnreachable as error:
            if not self._is_stopping:
                raise
            log.warning("the last update was not sent: %s", error)
        self._set_state("leaving", at_once=True)
        self._transport.close()
        log.info("worker %s leaves%s", self._name, ": the run is finished" if self.is_finished else "")
        if self.is_finished and self._save_model is not None and self._lacks_model:
            raise StateError(f"the run is finished, but {self._save_model} was not written; the log says why")

    def stop(self) -> None:
        """Ends ``run`` before the next batch. May be called from a signal handler."""
        self._is_stopping = True
        self._transport.give_up_waiting()
        self._transport.wake()

    def step(self, timeout_s: float | None = 0.0) -> bool:
        """Handles the next event if one comes within ``timeout_s``; True if one came."""
        delivery = self._transport.receive(timeout_s)
        if delivery is None and self._newest is None:
            self.is_finished = self.is_finished or self._has_waited()
            return False
        if delivery is not None:
            self._see_model(delivery)
        while self._newest is not None and not self._is_stopping:
            (head, payload), self._newest = self._newest, None
            self._take_part(head, payload)
        return True

    def _see_model(self, delivery: Delivery) -> None:
        """Remembers a model if it is newer than all before it."""
        try:
            message = decode_from(delivery.body, ModelHead, trust=self._trust)
        except MessageError as error:
            log.warning("a message on the model stream is dropped: %s", error)
            return
        head = message.header
        if self._run is not None and head.run != self._run:
            self._skip_run(head)
            return
        if message.signer is not None and not self._is_news(head):
            return
        self._mind_conflict(head)
        known = self._newest[0] if self._newest else self._done
        if known is None or known.run_id != head.run_id or head.position > known.position:
            self._newest = (head, message.payload)

    def _is_news(self, head: ModelHead) -> bool:
        """Whether a signed head is not from before the newest one accepted, which an attacker could send once more."""
        replayed = self._positions.replayed(head)
        if replayed:
            log.warning("a model is dropped: %s", replayed)
            return False
        self._positions.accept(head)
        return True

    def _skip_run(self, head: ModelHead) -> None:
        if self._skipped_run_id != head.run_id:
            self._skipped_run_id = head.run_id
            log.info("run %s is on the queue; waiting for run '%s'", head.run_id, self._run)

    def _mind_conflict(self, head: ModelHead) -> None:
        if self._name in head.name_conflicts and not self._was_told_of_conflict:
            self._was_told_of_conflict = True
            log.warning(
                "another worker goes by the name '%s' too; each round counts only one of the two:"
                " stop one, or start it with another --name",
                self._name,
            )

    # -- one round ------------------------------------------------------------------------------------------

    def _take_part(self, head: ModelHead, payload: Buffer) -> None:
        before, self._done = self._done, head
        if head.is_finished:
            if head.purpose == "statistics":
                self._keep_nothing(head)
            else:
                self._keep_final(head, payload)
            self._finish(head, is_first=before is None)
            return
        self._leaves_at = None
        self._check_can_carry(head)
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
            self._done = before
            return
        except UnfitMessage as error:
            log.warning("round %3d: the model is dropped: %s", head.round, error)
            self._done = before
            return
        self._on_event(ModelReceived(head=head, num_bytes=head.num_bytes, seconds=time.perf_counter() - begun_at))
        if head.blob is not None:
            malloc.give_back()  # the parts of the model, before training takes its memory
        self._train_and_send(head, sets)

    def _check_can_carry(self, head: ModelHead) -> None:
        """A TaskError if the run has a correction that cannot be had here, a SettingsError if it would soon be lost.

        A SettingsError, too, if the run masks updates and this worker knows no keepers, or if it is to add noise and
        could not remember that it did.
        """
        if head.privacy is not None and head.privacy.where == "local" and self._noise is None:
            raise SettingsError(
                f"run {head.run_id} has each worker add noise of its own, and keep account of it: give --state DIR"
            )
        if head.masking is not None and not self._membership.has_roster:
            raise SettingsError(
                f"run {head.run_id} masks updates, for which a worker has to know the keepers' keys and have one of its"
                " own: give --roster, --roster-key and --key"
            )
        correction = correction_of(head)
        if isinstance(correction.method, Ditto) and getattr(self._task, "trains_once", False):
            raise TaskError(
                f"run {head.run_id} has --correction {head.correction}, for which a site trains twice in a round, and a"
                " script's loop goes through once; give its model and loss as a --task"
            )
        if correction and not head.only_evaluate and not self._carried.is_lasting:
            raise SettingsError(
                f"run {head.run_id} has --correction {head.correction}, for which a worker carries state from round to"
                " round, also when it is restarted: give --state DIR"
            )

    def _sit_out(self, head: ModelHead) -> None:
        """Leaves a round to others, whose model is not read. Its next sign of life says so; none is sent for it."""
        self.presence = self.presence.model_copy(update={"round": head.round, "objection": None})
        words = "nobody is chosen yet" if head.draw is not None and head.draw.number == 0 else "others are chosen"
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
        self._delete_last_blob(head)
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
            log.info("the final model of run %s as it stands here is in %s", head.run_id, self._save_model)

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
        self._set_state("idle", head.round, objection=objection)

    def _delete_last_blob(self, head: ModelHead) -> None:
        """Deletes the blob of an update that came after the run's end, which no aggregator will ever read.

        A worker killed after sending no longer knows the name; the blob was for the last round, or is long deleted.
        Where late updates are folded, the blob stays: the same run may go on with more rounds, and fold its update.
        """
        if head.max_staleness == 0 and num_bytes_of(self._encoding_for(head).encoded) > head.cap(self._inline_cap):
            run_id, name = self._last_blob
            last = self._topology.update_blob(self._name, head.run_id, head.round - 1)
            self._transport.delete_blobs([name] if run_id == head.run_id else names_of(last))

    def _kept(self, head: ModelHead) -> Carried | None:
        """What is carried into a round: out of the last one, or, where it has to, out of the last that counted."""
        if head.correction is None:
            return self._carried.before(head.run_id, head.round)
        counted = head.last_counted(self._name)
        return None if counted is None else self._carried.after(head.run_id, counted)

    def _train_and_send(self, head: ModelHead, sets: Mapping[str, State]) -> None:
        self._set_state("training", head.round)
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
            self._answer(head, "measured", measured)
            shown = metrics_text(measured.metrics)
            log.info("round %3d → measured the last model  %s", head.round - 1, shown)
            self._set_state("idle", head.round)
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
            self._answer(head, "diverged", measured, reason=str(error), train_s=time.perf_counter() - begun_at)
        except BlobLost:
            self._carried.forget(head.run_id, head.round)
            self._leave_round(head, "is over; the update was not sent to its end")
        self._set_state("idle", head.round)

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

    def _answer(
        self,
        head: ModelHead,
        outcome: Literal["diverged", "measured"],
        measured: Measured,
        *,
        reason: str | None = None,
        train_s: float = 0.0,
    ) -> None:
        """Says at the aggregator that there is no update, if it takes such an answer."""
        if outcome not in head.replies:
            return
        answer = Reply(
            run_id=head.run_id,
            worker=self._name,
            instance=self.presence.instance,
            round=head.round,
            model_sha256=head.sha256,
            outcome=outcome,
            reason=None if reason is None else reason[:MAX_OBJECTION],
            sent_at=time.time(),
            **({} if _tells_nothing(head) else {"train_s": train_s, **_evaluation_of(measured)}),
        )
        self._transport.send(encode(answer, trust=self._trust), worker=self._name, num_shards=head.num_shards)

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
        whole = state | {
            name: tensor for name, tensor in carried.home.items() if name not in self._trainer.tensors.others
        }
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
            progress=self._set_progress,
            memory=memory,
            figures=frozenset(head.figures) - {"norm", WITHIN},
            statistics=self._trainer.prepare(head.statistics),
        )

    def _set_progress(self, fraction: float) -> None:
        self.presence = self.presence.model_copy(update={"progress": min(1.0, max(0.0, fraction))})

    def _is_over(self, head: ModelHead) -> bool:
        """Whether an update for this round can still count; looks at what has come meanwhile."""
        while (delivery := self._transport.receive(0)) is not None:
            self._see_model(delivery)
        if self._is_stopping:
            return True
        if self._newest is None:
            return False
        newest = self._newest[0]
        if newest.run_id != head.run_id or newest.is_finished:
            return True
        if newest.epoch != head.epoch and newest.round < head.round:
            return True  # an aggregator took over and went back
        return newest.round - head.round > newest.max_staleness

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
        encoding = self._encoding_for(head)
        is_inline = num_bytes_of(encoding.encoded) <= head.cap(self._inline_cap)
        self._set_state("sending", head.round, at_once=not is_inline)  # a worker that dies half way leaves a blob
        compressed, limits = self._encoded(head, trained, measured, before.residual, encoding)
        after = Carried({RESIDUAL: compressed.residual, HOME: trained.home, PERSONAL: own, **memory.sets()})
        counted = None
        if correcting is not None and isinstance(encoding, Encoding):
            delta = dict(decoded(compressed, encoding, correcting.received))
            after = after.with_sets(correcting.after(delta, lr=head.local.lr, figures=trained.figures))
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
        begun_at = time.perf_counter()
        num_masks = 0 if head.masking is None else len(head.masking.keepers)
        masks = covered(compressed.encoded, encoding.encoded, num_masks=num_masks)
        sent = self._body(head, encoding, compressed.encoded)
        if sent.blob is not None:
            self._last_blob = (head.run_id, sent.blob.name)
        update = UpdateHead(
            tensors=encoding.encoded,
            sha256=sent.sha256,
            blob=sent.blob,
            sealed=sent.sealed,
            compression=head.compression,
            run_id=head.run_id,
            worker=self._name,
            instance=self.presence.instance,
            round=head.round,
            model_sha256=head.sha256,
            base_sha256=self._base_sha256,
            sent_at=time.time(),
            **(_NOTHING | {"figures": limits} if _tells_nothing(head) else _told_of(trained, measured, figures)),
            seeds=self._sealed_seeds(head, encoding, masks, sent.sha256) if masks else (),
            is_fresh=correcting is not None and correcting.is_fresh,
        )
        body = encode(update, sent.payload, trust=self._trust)
        self._transport.send(body, worker=self._name, num_shards=head.num_shards)
        num_bytes = len(body) + (num_bytes_of(encoding.encoded) if sent.blob else 0)
        self._on_event(UpdateSent(round=head.round, num_bytes=num_bytes, seconds=time.perf_counter() - begun_at))
        log.info(
            "round %3d → %6d samples %8.2f s training  %s",
            head.round,
            trained.num_samples,
            trained.train_s,
            metrics_text(trained.metrics),
            extra={
                "round": head.round,
                "run_id": head.run_id,
                "num_samples": trained.num_samples,
                "train_s": trained.train_s,
                "num_bytes": num_bytes,
                "metrics": plain(trained.metrics),
                "eval_metrics": plain(measured.recorded()),
            },
        )

    def _encoded(
        self,
        head: ModelHead,
        trained: Trained,
        measured: Measured,
        residual: State,
        encoding: Encoding | MaskedEncoding,
    ) -> tuple[Compressed, Mapping[str, float]]:
        """What travels of a delta and the last residual, not masked yet, and what is to be said of its limits.

        Diverged if it cannot travel.
        """
        if isinstance(encoding, Encoding):
            seed = derived_seed(head.seed, head.round, self._name)
            delta, limits = limited(
                head, trained.delta, encoding.specs, keys=lambda update: self._noise_key(head, update)
            )
            return compress(delta, residual, encoding, seed=seed), limits
        try:
            summand = integers_of(
                head,
                encoding,
                trained.delta,
                residual,
                num_samples=trained.num_samples,
                metrics=_metrics_of(trained, measured),
                keys=lambda update: self._noise_key(head, update),
            )
        except CannotBeSummed as error:
            raise Diverged(str(error)) from error
        return Compressed(summand.integers, summand.residual), {}

    def _noise_key(self, head: ModelHead, update: bytes) -> bytes:
        """The key of this worker's own noise for the update with this digest. NoUpdate if its budget is spent."""
        assert self._noise is not None
        assert head.privacy is not None
        key = self._noise.key(head.run_id, head.round, head.privacy, update)
        if key is None:
            raise NoUpdate("this site's own privacy budget is spent")
        return key

    def _sealed_seeds(
        self, head: ModelHead, encoding: Encoding | MaskedEncoding, seeds: Sequence[bytes], masked_sha256: str
    ) -> tuple[bytes, ...]:
        """The seeds of the masks over the body with this digest, each sealed to its keeper."""
        rosters = self._membership.rosters
        assert rosters is not None, "a masked run was taken part in without a roster"
        return sealed_seeds(
            seeds,
            head,
            encoding.encoded,
            worker=self._name,
            instance=self.presence.instance,
            masked_sha256=masked_sha256,
            min_sites=self._policy.min_sites,
            roster=rosters.current(),
            trust=self._trust,
        )

    def _body(self, head: ModelHead, encoding: Encoding | MaskedEncoding, encoded: State) -> Body:
        """The body of the update; sends it again if its blob is lost on the way while the round is open.

        A broker that is killed may forget a stream that it has just made. The aggregator deletes only blobs of rounds
        that are over.
        """
        for _ in range(_MAX_UPLOADS - 1):
            try:
                return self._uploader.send(head, encoding, encoded)
            except BlobLost as error:
                if self._is_over(head):
                    raise
                log.info("round %3d: %s; sending the update again", head.round, error, extra={"round": head.round})
        return self._uploader.send(head, encoding, encoded)

    def _encoding_for(self, head: ModelHead) -> Encoding | MaskedEncoding:
        """The last encoding, as long as the model's specs, and how updates travel, stay the same."""
        specs, last = head.update_specs, self._encoding
        if head.masking is not None:
            is_same = isinstance(last, MaskedEncoding) and (last.specs, last.masking, last.privacy) == (
                specs,
                head.masking,
                head.privacy,
            )
            self._encoding = last = last if is_same else MaskedEncoding(specs, head.masking, head.privacy)
        elif not isinstance(last, Encoding) or (last.specs, last.compression) != (specs, head.compression):
            self._encoding = last = Encoding(specs, head.compression)
        assert last is not None
        return last

    # -- signs of life --------------------------------------------------------------------------------------

    def _set_state(
        self,
        state: Literal["idle", "training", "sending", "leaving"],
        round_number: int = 0,
        *,
        at_once: bool = False,
        objection: str | None = None,
    ) -> None:
        self.presence = Presence(
            worker=self._name,
            instance=self.presence.instance,
            state=state,
            round=round_number,
            every_s=self.presence.every_s,
            objection=None if objection is None else objection[:MAX_OBJECTION],
        )
        if at_once:
            self.announce()
        else:
            self._announce_soon()
        self._on_event(StateChanged(presence=self.presence))

    def announce(self) -> None:
        """Sends a sign of life. May be called from any thread."""
        self._transport.announce(encode(self.presence, trust=self._trust), worker=self._name)


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


_NOTHING: dict[str, Any] = {"num_samples": 1, "train_s": 0.0}
"""What the header of an update says of its site where nothing of a single one may be known."""


def _tells_nothing(head: ModelHead) -> bool:
    """Whether an answer to this head says nothing of its site: what may be known of all sites is in the sum."""
    return head.masking is not None or head.privacy is not None


def _told_of(trained: Trained, measured: Measured, figures: Mapping[str, float]) -> Mapping[str, Any]:
    return {
        "num_samples": trained.num_samples,
        "train_s": trained.train_s,
        "train_metrics": finite(trained.metrics),
        "train_not_finite": not_finite(trained.metrics),
        "figures": figures,
        **_evaluation_of(measured),
    }


def _evaluation_of(measured: Measured) -> Mapping[str, Any]:
    return {"eval_metrics": finite(measured.recorded()), "eval_not_finite": not_finite(measured.recorded())}


def _metrics_of(trained: Trained, measured: Measured) -> dict[str, float]:
    """By the names that a head has for them. An evaluation of no samples measured nothing."""
    evaluated = {} if measured.num_samples == 0 else measured.metrics
    return {f"{IN_TRAINING}{name}": value for name, value in trained.metrics.items()} | {
        f"{AT_SITES}{name}": value for name, value in evaluated.items()
    }


def _warn_of_untrained(head: ModelHead, fresh: Carried) -> None:
    """Says that this site has nothing of its own in a model of which some tensors stay at the sites."""
    if fresh.home:
        log.warning("the tensors of run %s that stay here were never trained here", head.run_id)
