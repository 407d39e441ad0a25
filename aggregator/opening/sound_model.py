"""The newest model that is whole on the disk.

One that is damaged is read back from the stream, where it is. Where it is not, its round is done again from the model
before: with the masked updates that it had, or by the workers.
"""

import logging
from collections.abc import Callable, Collection

from aggregator.opening.began_with import remembers_from
from aggregator.rounds import MASTER
from aggregator.state import Ledger, ModelFile, StateDirectory, companion_specs
from broker.modules import ModelTensors
from broker.wire import Specs
from console import DamagedFile, StateError

log = logging.getLogger(__name__)


def go_back_to_sound_model(
    directory: StateDirectory,
    ledger: Ledger,
    tensors: ModelTensors,
    specs: Specs,
    companions: Collection[str],
    *,
    from_stream: Callable[[], bool],
) -> None:
    """Has the ledger's last closed round be one whose model is whole. DamagedFile if there is none.

    ``from_stream`` puts the last one in its place again, and returns whether it could.
    """
    damaged: dict[int, DamagedFile] = {}
    for number in range(ledger.last_closed_round(), ledger.base_round() - 1, -1):
        try:
            try:
                _check_model(directory, ledger, tensors, specs, number)
            except DamagedFile as error:
                if damaged or not from_stream():
                    raise
                log.warning("%s; it is read back from the broker", error)
            _check_companions(directory, ledger, specs, companions, number)
            break
        except DamagedFile as error:
            damaged[number] = error
    else:  # nothing is undone: a copy that is put back goes on where the run was
        raise DamagedFile(
            f"{next(iter(damaged.values()))}, and no model before it is whole: put back a copy of {directory.folder},"
            " or begin another run (--run, with another --state) with a model that is left (--init)"
        )
    if damaged:
        first = min(damaged)
        log.error("%s; doing round %d again from the model before", "; ".join(map(str, damaged.values())), first)
        if ledger.undo_from(first):
            log.info("round %d goes on with the masked updates that it had; its keepers are asked once more", first)


def _check_model(directory: StateDirectory, ledger: Ledger, tensors: ModelTensors, specs: Specs, number: int) -> None:
    """A DamagedFile unless the model after this round is what it was."""
    _check_has_tied_once(directory.model(number), tensors)
    directory.model(number).check(specs, ledger.model_sha256(number))


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


def _check_companions(
    directory: StateDirectory, ledger: Ledger, specs: Specs, wanted: Collection[str], number: int
) -> None:
    """A DamagedFile unless the step's state after this round is there; a StateError if it is another step's."""
    recorded = ledger.companions(number)
    if number < remembers_from(ledger):  # they are another optimizer's, but for the master
        wanted = recorded = {name: sha256 for name, sha256 in recorded.items() if name == MASTER}
    is_of_0_1_0 = not recorded and set(wanted) == {MASTER}  # which kept none beside models in half precision
    if number > ledger.base_round() and recorded.keys() != set(wanted) and not is_of_0_1_0:
        raise StateError(
            f"{directory.folder} holds this step state for round {number}: {', '.join(sorted(recorded)) or 'nothing'};"
            f" this run's server step needs: {', '.join(sorted(wanted)) or 'nothing'}; use the one it began with"
        )
    for name, sha256 in recorded.items():
        directory.companion(number, name).check(companion_specs(name, specs), sha256)
