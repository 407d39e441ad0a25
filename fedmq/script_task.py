"""A script's loop as the worker sees it: a task. The worker's thread and the script's take turns.

While the worker waits in ``train`` or ``evaluate``, the script runs; while the script waits for its next round, or for
its update to be sent, the worker runs. So nothing is shared between them, and what the script calls on the worker's
plan is called while the worker stands still.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from queue import SimpleQueue

from torch import nn

from learning import Plan
from worker import NoUpdate
from worker.events import Event, StateChanged, UpdateSent

Metrics = Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Training:
    """The worker asks for a training of the model as it stands."""

    plan: Plan


@dataclass(frozen=True, slots=True)
class Measuring:
    """The worker asks how good the model is as it stands."""


@dataclass(frozen=True, slots=True)
class RoundOver:
    """The worker is done with a round."""

    was_sent: bool


@dataclass(frozen=True, slots=True)
class Left:
    """The worker has left: its run is finished, it was told to, or it failed."""

    error: BaseException | None


class ScriptTask:
    """Both ends: the methods of a Task and ``on_event`` are the worker's, ``next`` and what follows the script's."""

    trains_once = True
    """Whether there is one training in a round, and no second one."""

    def __init__(self, model: nn.Module, *, measures: bool) -> None:
        self._model, self._measures = model, measures
        self._asked: SimpleQueue[Training | Measuring | RoundOver | Left] = SimpleQueue()
        self._answers: SimpleQueue[Metrics | NoUpdate | None] = SimpleQueue()
        self._script_has_left = False
        self._was_sent = False

    # -- the worker's end -----------------------------------------------------------------------------------

    def model(self) -> nn.Module:
        """The script's own module, as it stands."""
        return self._model

    def evaluate(self, model: nn.Module) -> Metrics:
        return (self._ask(Measuring()) or {}) if self._measures else {}

    def train(self, model: nn.Module, plan: Plan) -> Metrics:
        """What the script's ``send`` was given. NoUpdate if it goes on to the next round without."""
        metrics = self._ask(Training(plan))
        plan.cancelled()  # a script need not ask: what comes after the round's end is not sent
        return metrics or {"num_samples": 1}

    def on_event(self, event: Event) -> None:
        if isinstance(event, UpdateSent):
            self._was_sent = True
        elif isinstance(event, StateChanged) and event.presence.state == "idle":
            self._asked.put(RoundOver(self._was_sent))
            self._was_sent = False

    def run(self, worker: Callable[[], None]) -> None:
        """Runs the worker to its end, in its thread; the script hears how it ended."""
        try:
            worker()
        except BaseException as error:  # of whatever kind: it is raised in the script's thread
            self._asked.put(Left(error))
        else:
            self._asked.put(Left(None))

    def _ask(self, what: Training | Measuring) -> Metrics | None:
        """The script's answer; None if it has left."""
        if self._script_has_left:
            return None
        self._asked.put(what)
        answer = self._answers.get()
        if isinstance(answer, NoUpdate):
            raise answer
        return answer

    # -- the script's end -----------------------------------------------------------------------------------

    def next(self) -> Training | Measuring | RoundOver | Left:
        """What the worker says next. May take as long as a round, and longer."""
        return self._asked.get()

    def hear_again(self, left: Left) -> None:
        """Has ``next`` say it once more."""
        self._asked.put(left)

    def answer(self, metrics: Metrics | NoUpdate) -> None:
        self._answers.put(metrics)

    def leave(self) -> None:
        """Lets the worker's thread go on without the script. It must have been told to stop."""
        self._script_has_left = True
        self._answers.put(None)
