"""``fl-model``: takes a model out of a run's state directory, for use elsewhere."""

import sys
from collections.abc import Sequence

from aggregator.history import History, export
from console import ExitCode, configure_logging, exit_code_of, read_settings
from operations.arguments import words_last
from operations.runs.settings import ModelSettings

_PROG = "fl-model"
_DESCRIPTION = "Takes a model out of a run's state directory. It changes nothing there, also while the run goes on."
_EXAMPLES = """\
  fl-model export state --to model.pt                     a plain state dict: torch.load("model.pt", weights_only=True)
  fl-model export state --round best --to model.safetensors
  fl-model export state --round 12 --to card.md           a model card: rounds, sites, metrics, digest, settings
Exit codes: 0 written, 2 wrong use, 6 no run there, no such model, or the file cannot be written"""


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    return exit_code_of(lambda: _command(sys.argv[1:] if argv is None else argv), prog=_PROG)


def _command(argv: Sequence[str]) -> ExitCode:
    given = words_last(ModelSettings, argv)
    settings = read_settings(ModelSettings, given, prog=_PROG, description=_DESCRIPTION, examples=_EXAMPLES)
    configure_logging(settings.log_level, log_format=settings.log_format)
    with History(settings.state) as history:
        export(history, settings.which, settings.to)
        number = history.model_round(settings.which)
    print(f"{settings.to} has the model after round {number}")
    return ExitCode.OK


if __name__ == "__main__":
    raise SystemExit(main())
