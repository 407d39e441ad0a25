"""``fl-privacy``: epsilon for a noise, or the noise for an epsilon. It connects to nothing, and reads no run."""

import json
from collections.abc import Sequence

from console import ExitCode, SettingsError, configure_logging, exit_code_of, read_settings
from privacy.planning.plan import Plan
from privacy.planning.settings import PrivacySettings

_PROG = "fl-privacy"
_DESCRIPTION = """\
Says what a run with noise on each round's sum gives away of one worker, or how much noise keeps that within an epsilon;
and whether anything is left to learn from. Exact for everybody taking part in each round."""
_EXAMPLES = """\
  fl-privacy --noise 5 --rounds 50 --delta 1e-5                       the epsilon of 50 rounds
  fl-privacy --epsilon 8 --rounds 50 --delta 1e-5                     the noise that keeps within 8
  fl-privacy --epsilon 8 --rounds 50 --workers 1000 --parameters 10000    and whether it drowns the updates
  fl-privacy --epsilon 8 --rounds 50 --dp-spent 2 --json              for a second run on the same data"""


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    return exit_code_of(lambda: _command(argv), prog=_PROG)


def _command(argv: Sequence[str] | None) -> ExitCode:
    settings = read_settings(PrivacySettings, argv, prog=_PROG, description=_DESCRIPTION, examples=_EXAMPLES)
    configure_logging(settings.log_level, log_format=settings.log_format)
    plan = _plan_of(settings)
    if settings.is_json:
        print(json.dumps(plan.as_json()))
    else:
        for name, text in plan.lines():
            print(f"{name:<8}  {text}")
    return ExitCode.OK


def _plan_of(settings: PrivacySettings) -> Plan:
    size = {"workers": settings.workers, "parameters": settings.parameters}
    if settings.noise is not None:
        return Plan(settings.noise, settings.rounds, settings.delta, settings.dp_spent, **size)
    assert settings.epsilon is not None
    try:
        return Plan.within(
            settings.epsilon, rounds=settings.rounds, delta=settings.delta, spent_mu2=settings.dp_spent, **size
        )
    except ValueError as error:
        raise SettingsError(f"{error}. See {_PROG} --help.") from error
