"""``fl-run``: asks something of a running aggregator, from any machine that reaches the broker."""

import contextlib
import json
import sys
from collections.abc import Sequence

from broker import look
from broker.wire import Answer, Topology
from console import ExitCode, FedmqError, configure_logging, exit_code_of, printable, read_settings
from identities import membership
from operations.arguments import words_last
from operations.runs.settings import RunCommandSettings
from operations.runs.telling import tell
from operations.snapshot import Snapshot
from operations.status_view import summary

_PROG = "fl-run"
_DESCRIPTION = """\
Asks something of the aggregator that leads a run, through the broker, and waits for its answer.
What is asked is done once, recorded in the run's ledger, and holds over a restart of the aggregator."""
_EXAMPLES = """\
  FEDMQ_BROKER=amqps://operator:secret@broker:5671/ fl-run pause --queue updates
  fl-run resume                           the open round goes on, with as much time as it had left
  fl-run stop                             ends the aggregator as SIGTERM does; its command goes on from there
  fl-run finish [--now]                   the run is over once the open round is closed; --now: at once
  fl-run set lr=0.01 epochs=1             from the next round on
  fl-run exclude hospital-b 'lab-*'       their updates do not count any more; include: they do again
  fl-run extend 10                        ten more rounds
  fl-run list --state runs                the runs in a folder of this machine; asks no broker
Exit codes: 0 accepted, 1 refused (the line says why), 2 wrong use, 4 no broker, no run or no answer in time,
5 the broker refuses, 6 list: no such folder, or no run in it"""


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    return exit_code_of(lambda: _command(sys.argv[1:] if argv is None else argv), prog=_PROG)


def _command(argv: Sequence[str]) -> ExitCode:
    given = words_last(RunCommandSettings, argv)
    settings = read_settings(RunCommandSettings, given, prog=_PROG, description=_DESCRIPTION, examples=_EXAMPLES)
    level = settings.log_level if settings.log_level != "INFO" else "WARNING"
    configure_logging(level, log_format=settings.log_format)
    if settings.command == "list":
        return _list(settings)
    member = membership(settings, "operator")
    with contextlib.closing(look(settings, role="run")) as transport:
        answer, snapshot = tell(
            transport,
            Topology(settings.queue),
            member.trust,
            verb=settings.command,
            words=settings.all_words,
            within_s=settings.answer_within_s,
        )
    if settings.is_json:
        print(_as_json(answer, snapshot))
        return ExitCode.OK if answer.is_accepted else ExitCode.FAILED
    if not answer.is_accepted:
        raise FedmqError(f"refused: {printable(answer.text)}")
    print(printable(answer.text))
    print(summary(snapshot))
    return ExitCode.OK


def _list(settings: RunCommandSettings) -> ExitCode:
    from operations.runs import listing  # brings PyTorch, which nothing else here needs

    found = listing.digests(settings.state)
    lines = [json.dumps(each) for each in found] if settings.is_json else listing.table(found)
    print("\n".join(lines))
    return ExitCode.OK


def _as_json(answer: Answer, snapshot: Snapshot) -> str:
    status = snapshot.status
    fields = answer.model_dump(mode="json") | {"status": None if status is None else status.model_dump(mode="json")}
    return json.dumps(fields)


if __name__ == "__main__":
    raise SystemExit(main())
