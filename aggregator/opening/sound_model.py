"""The newest model that is whole on the disk: where one is damaged, its round is done again from the one before."""

import logging
from collections.abc import Collection

from aggregator.opening.began_with import remembers_from
from aggregator.rounds import MASTER
from aggregator.state import Ledger, ModelFile, StateDirectory, companion_specs
from broker.modules import ModelTensors
from broker.wire import Specs
from console import DamagedFile, StateError

log = logging.getLogger(__name__)


def go_back_to_sound_model(
    directory: StateDirectory, ledger: Ledger, tensors: ModelTensors, specs: Specs, companions: Collection[str]
) -> None:
    """Has the ledger's last closed round be one whose model is whole. DamagedFile if that of the beginning is not."""
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
    directory: StateDirectory, ledger: Ledger, specs: Specs, wanted: Collection[str], last: int
) -> None:
    """A DamagedFile unless the step's state after the last round is there; a StateError if it is another step's."""
    recorded = ledger.companions(last)
    if last < remembers_from(ledger):  # they are another optimizer's, but for the master
        wanted = recorded = {name: sha256 for name, sha256 in recorded.items() if name == MASTER}
    is_of_0_1_0 = not recorded and set(wanted) == {MASTER}  # which kept none beside models in half precision
    if last > ledger.base_round() and recorded.keys() != set(wanted) and not is_of_0_1_0:
        raise StateError(
            f"{directory.folder} holds this step state for round {last}: {', '.join(sorted(recorded)) or 'nothing'};"
            f" this run's server step needs: {', '.join(sorted(wanted)) or 'nothing'}; use the one it began with"
        )
    for name, sha256 in recorded.items():
        directory.companion(last, name).check(companion_specs(name, specs), sha256)
