"""A script that trains in a loop over ``fedmq.rounds(model)``: run as Python would run it, or for its model alone."""

from learning.scripts.running import from_script, reached, run_script
from learning.scripts.scripted_model import ScriptedModel

__all__ = ["ScriptedModel", "from_script", "reached", "run_script"]
