"""What a run needs that a worker may have been started without. Pure."""

from broker import Ditto
from broker.wire import ModelHead
from console import SettingsError, TaskError
from worker.algorithms import correction_of


def check_can_take_part(
    head: ModelHead, *, keeps_state: bool, adds_noise: bool, has_roster: bool, trains_once: bool
) -> None:
    """SettingsError if this worker has to be started otherwise for the run; TaskError if its task cannot take part.

    ``keeps_state``: what it carries outlives it (``--state``); ``adds_noise``: it could, and would keep account of it;
    ``has_roster``: it knows the keepers' keys; ``trains_once``: its task is a script's loop.
    """
    if head.privacy is not None and head.privacy.where == "local" and not adds_noise:
        raise SettingsError(
            f"run {head.run_id} has each worker add noise of its own, and keep account of it: give --state DIR"
        )
    if head.masking is not None and not has_roster:
        raise SettingsError(
            f"run {head.run_id} masks updates, for which a worker has to know the keepers' keys and have one of its"
            " own: give --roster, --roster-key and --key"
        )
    correction = correction_of(head)
    if isinstance(correction.method, Ditto) and trains_once:
        raise TaskError(
            f"run {head.run_id} has --correction {head.correction}, for which a site trains twice in a round, and a"
            " script's loop goes through once; give its model and loss as a --task"
        )
    if correction and not head.only_evaluate and not keeps_state:
        raise SettingsError(
            f"run {head.run_id} has --correction {head.correction}, for which a worker carries state from round to"
            " round, also when it is restarted: give --state DIR"
        )
