"""What an aggregator needs of a script: the model that it hands to ``fedmq.rounds``."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import nn

from console import TaskError
from learning.scripts.running import ModelGiven, run_script
from learning.task import Plan
from learning.user_code import blamed

_WRONG_USE = 2
"""What argparse, click and others end a program with whose arguments make no sense."""


class ScriptedModel:
    """A Task that neither trains nor measures: its model is what the script has made when it comes to its rounds."""

    def __init__(self, path: Path, arguments: Sequence[str] = ()) -> None:
        self._path, self._arguments = path, tuple(arguments)

    def model(self) -> nn.Module:
        """Runs the script as far as ``fedmq.rounds(model)``. TaskError if it does not come to that."""
        doing = f"running {self._path} for its model"
        try:
            with blamed(doing):
                run_script(self._path, self._arguments, for_model_alone=True)
        except ModelGiven as given:
            return given.model.cpu()
        except TaskError as error:
            if isinstance(error.__cause__, SystemExit) and error.__cause__.code == _WRONG_USE:
                hint = f"--script {self._path} -- --its --own flags"
                raise TaskError(f"{error}; give it the arguments that it needs, also here: {hint}") from error.__cause__
            raise
        raise TaskError(f"{doing}: it ended without `for round in fedmq.rounds(model)`")

    def train(self, model: nn.Module, plan: Plan) -> Mapping[str, float]:
        raise TaskError(f"{self._path} trains at its workers, in a loop of its own")

    def evaluate(self, model: nn.Module) -> Mapping[str, float]:
        """Nothing: a script measures at its workers."""
        return {}
