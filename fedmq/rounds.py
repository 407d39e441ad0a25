"""A training script's loop over the rounds of a run: the script becomes a worker, the same that ``fl-worker`` is."""

import contextlib
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from torch import nn

from console import (
    FedmqError,
    TaskError,
    given_settings,
    log_unless_configured,
    on_signals,
    private_files,
    signals_as_before,
)
from fedmq.script_task import Left, Measuring, RoundOver, ScriptTask, Training
from learning import Plan
from learning.scripts import reached
from worker import NoUpdate, WorkerSettings, joined, named

log = logging.getLogger(__name__)

_NOTHING_SENT = NoUpdate("the script went on to the next round without round.send(num_samples=…)")


class Round:
    """One round, in which the script trains the model that it gave."""

    def __init__(self, plan: Plan, send: Callable[[Mapping[str, float]], bool], model: nn.Module) -> None:
        self.plan = plan
        """What the run asks of local training: ``epochs``, ``batch_size``, ``lr``, …, and a ``seed``; see Plan."""
        self.was_sent = False
        """Whether ``send`` was called."""
        self._send, self._model = send, model
        self._versions = _versions(model)

    @property
    def number(self) -> int:
        """1 for the first round of the run."""
        return self.plan.round

    def cancelled(self) -> bool:
        """Whether an update can no longer count: ask before each batch or epoch, and end the round if so."""
        return self.plan.cancelled()

    def progress(self, share: float) -> None:
        """Tells the others how much of the training is done, from 0 to 1."""
        self.plan.progress(share)

    def send(self, *, num_samples: int, metrics: Mapping[str, float] | None = None) -> bool:
        """Sends what training changed in the model; its weight in the mean is ``num_samples``.

        ``metrics`` are of this training. Returns once the broker has the update: True; or False if there is none,
        because the round was over before, or the worker was told to leave, or training gave NaN or infinity.
        Raises a FedmqError where the worker cannot go on.
        """
        if self.was_sent:
            raise TaskError(f"round {self.number} was sent before; a round has one update")
        self.was_sent = True
        if self._versions == _versions(self._model):
            log.warning(
                "round %3d: the model given to fedmq.rounds() has not changed; does the script train another one?",
                self.number,
            )
        return self._send({**(metrics or {}), "num_samples": num_samples})


def rounds(
    model: nn.Module,
    *,
    evaluate: Callable[[nn.Module], Mapping[str, float]] | None = None,
    config: str | Path | None = None,
    **settings: Any,
) -> Iterator[Round]:
    """The rounds of a run, each with the newest global model loaded into ``model``, in place.

    Joins at the first round, and leaves where the loop ends: when the run is finished, on Ctrl-C or SIGTERM, at a
    ``break``, or with an exception of the script's. ``evaluate(model)``, if given, returns the metrics of a received
    model on the site's own held-out data, and is called, without gradients, before it is trained.

    ``settings`` are those of ``fl-worker`` with underscores (``broker=…, name=…, state=…``); those that are not given
    come from the environment (``FEDMQ_BROKER``), from the YAML file ``config``, or from their defaults. The model
    stays on its device. Raises a FedmqError that says what is wrong; uncaught, it ends the script with that line alone
    and the exit code of ``fl-worker``.
    """
    _end_with_one_line()
    reached(model)
    given = given_settings(WorkerSettings, settings, config=config, prog="fl-worker")
    log_unless_configured(given.log_level, log_format=given.log_format)
    task = ScriptTask(model, measures=evaluate is not None)
    with contextlib.ExitStack() as stack:
        name = stack.enter_context(named(given))
        if given.state is not None or given.save_model is not None:
            stack.enter_context(private_files(given.state))
        stack.enter_context(signals_as_before())
        worker = stack.enter_context(
            joined(
                given,
                name,
                task=lambda: task,
                devices=lambda: (_device_of(model),),
                on_event=task.on_event,
                on_link=lambda change: None,
                on_signals=_on_signals,
            )
        )
        thread = threading.Thread(target=task.run, args=(worker.run,), name="worker", daemon=True)
        thread.start()
        try:
            yield from _rounds(task, model, evaluate)
        finally:
            worker.stop()
            task.leave()
            thread.join()


def _rounds(
    task: ScriptTask, model: nn.Module, evaluate: Callable[[nn.Module], Mapping[str, float]] | None
) -> Iterator[Round]:
    while True:
        match task.next():
            case Training(plan):
                round = Round(plan, lambda metrics: _sent(task, metrics), model)
                yield round
                if not round.was_sent:
                    task.answer({} if round.cancelled() else _NOTHING_SENT)
            case Measuring():
                with torch.no_grad():
                    metrics = evaluate(model) if evaluate is not None else {}
                task.answer(metrics)
            case Left(None):
                return
            case Left(error):
                assert error is not None
                raise error


def _sent(task: ScriptTask, metrics: Mapping[str, float]) -> bool:
    """Gives the worker the result of a training, and waits until it is done with the round."""
    task.answer(metrics)
    while True:
        match task.next():
            case RoundOver(was_sent):
                return was_sent
            case Left(error) as left:
                task.hear_again(left)
                if error is not None:
                    raise error
                return False


def _device_of(model: nn.Module) -> str:
    devices = {str(parameter.device) for parameter in model.parameters()} or {"cpu"}
    if len(devices) > 1:
        raise TaskError(f"the model is spread over {', '.join(sorted(devices))}; give fedmq.rounds() one on one device")
    return devices.pop()


def _versions(model: nn.Module) -> list[int]:
    """Changes whenever one of the model's tensors is changed in place, or gets other memory."""
    entries = model.state_dict().values()
    tensors = [entry for entry in entries if isinstance(entry, torch.Tensor) and entry.layout == torch.strided]
    return [number for tensor in tensors for number in (tensor._version, tensor.data_ptr())]


def _on_signals(stop: Callable[[], None]) -> None:
    """Outside the main thread nobody can hear a signal: there the main program ends the loop."""
    if threading.current_thread() is threading.main_thread():
        on_signals(stop, on_signal=_say_what_follows)


def _say_what_follows(number: int) -> None:
    again = "press Ctrl-C" if number == signal.SIGINT else "send SIGTERM"
    with contextlib.suppress(OSError):
        os.write(
            2, f"finishing: the loop over the rounds ends after this one; {again} again to stop at once\n".encode()
        )


def _end_with_one_line() -> None:
    """An error meant for a person ends a script as it ends our commands."""
    if sys.excepthook is sys.__excepthook__:
        sys.excepthook = _excepthook


def _excepthook(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
    if not isinstance(error, FedmqError):
        sys.__excepthook__(kind, error, traceback)
        return
    print(f"{sys.argv[0]}: {error}", file=sys.stderr)
    raise SystemExit(int(error.exit_code))
