"""``fl-dead``: look at the updates that were set aside, then replay or drop them."""

import json
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.filesize import decimal
from rich.table import Table

from broker.rabbitmq import DeadLetters, Letter, Opened
from console import (
    ExitCode,
    FedmqError,
    SettingsError,
    UnfitMessage,
    configure_logging,
    exit_code_of,
    printable,
    read_settings,
)
from operations.arguments import words_last
from operations.settings import DeadSettings

_PROG = "fl-dead"
_DESCRIPTION = "Lists and shows the updates that were set aside, and replays or drops them. Looking changes nothing."
_EXAMPLES = """\
  fl-dead list --queue updates
  fl-dead show 3f9a0c51d2e4
  fl-dead replay 3f9a0c51d2e4 77b1e08c9a6d      (the aggregator judges them anew)
  fl-dead replay --all --worker hospital-a
  fl-dead drop --all --yes"""

_SHOWN_BYTES = 64
_COLUMNS = ("id", "worker", "round", "size", "when", "reason")


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    return exit_code_of(lambda: _command(sys.argv[1:] if argv is None else argv), prog=_PROG)


def _command(argv: Sequence[str]) -> ExitCode:
    settings = read_settings(
        DeadSettings, words_last(DeadSettings, argv), prog=_PROG, description=_DESCRIPTION, examples=_EXAMPLES
    )
    configure_logging(settings.log_level, log_format=settings.log_format)
    commands = {"list": _list, "show": _show, "replay": _replay, "drop": _drop}
    commands[settings.command](settings)
    return ExitCode.OK


# -- the commands -------------------------------------------------------------------------------------------


def _list(settings: DeadSettings) -> None:
    found = _read(settings)
    if settings.is_json:
        for letter in found.letters:
            print(json.dumps(_as_json(letter)))
    elif found.letters:
        _print_table([_row(letter) for letter in found.letters])
    else:
        print(_nothing(settings))
    _print_rest(found)


def _show(settings: DeadSettings) -> None:
    (wanted,) = settings.ids
    opened, has_blob, num_left = None, False, 0
    with DeadLetters(settings) as letters:
        for each in letters.read(settings.limit):
            if each.letter.id == wanted:
                opened = each
        num_left = letters.num_left
        if opened and opened.head and opened.head.blob:
            has_blob = letters.has_blob(opened.head.blob.name)
    if opened is None:
        raise _unknown([wanted], settings, num_left)
    rows = list(_facts(opened, has_blob=has_blob))
    width = max(len(name) for name, _ in rows)
    for name, value in rows:
        print(f"{name:<{width}}  {value}".rstrip())


def _replay(settings: DeadSettings) -> None:
    found = _read(settings)
    stuck = [letter.id for letter in found.letters if not letter.can_be_replayed]
    if stuck:
        raise UnfitMessage(f"cannot replay {', '.join(stuck)}: no worker is known as the sender; use `drop`")
    _on_each(settings, found, DeadLetters.replay, "replayed")


def _drop(settings: DeadSettings) -> None:
    if not settings.yes and not sys.stdin.isatty():
        raise SettingsError("drop needs --yes when standard input is not a terminal, as nobody can be asked")
    found = _read(settings)
    if found.letters and not settings.yes and not _agrees(found.letters):
        print("dropped nothing")
        return
    _on_each(settings, found, DeadLetters.drop, "dropped")


def _agrees(letters: Sequence[Letter]) -> bool:
    workers = sorted({_shown(letter.sender) for letter in letters})
    question = f"drop {_counted(len(letters))} from {', '.join(workers)} for good? [y/N] "
    try:
        return input(question).strip().lower() in ("y", "yes")
    except EOFError:
        return False


# -- looking and acting -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Letters:
    """What was found when the queue was read."""

    num_read: int
    num_left: int
    letters: list[Letter]
    """Those that the command is about."""


def _read(settings: DeadSettings) -> _Letters:
    with DeadLetters(settings) as dead_letters:
        letters = [opened.letter for opened in dead_letters.read(settings.limit)]
        num_left = dead_letters.num_left
    unknown = [wanted for wanted in settings.ids if wanted not in {letter.id for letter in letters}]
    if unknown:
        raise _unknown(unknown, settings, num_left)
    meant = [
        letter
        for letter in letters
        if settings.worker in (None, letter.sender) and (not settings.ids or letter.id in settings.ids)
    ]
    return _Letters(len(letters), num_left, meant)


def _on_each(settings: DeadSettings, found: _Letters, act: Callable[[DeadLetters, Opened], None], done: str) -> None:
    """Acts on each letter found before, as often as it was found: one set aside again meanwhile stays."""
    if not found.letters:
        print(_nothing(settings))
        return
    due = Counter(letter.id for letter in found.letters)
    with DeadLetters(settings) as dead_letters:
        for opened in dead_letters.read(found.num_read):
            if due[opened.letter.id]:
                act(dead_letters, opened)
                due[opened.letter.id] -= 1
    missed = f"; {due.total()} gone before" if due.total() else ""
    print(f"{done} {_counted(len(found.letters) - due.total())}{missed}")
    if settings.all:
        _print_rest(found)


def _unknown(ids: Sequence[str], settings: DeadSettings, num_left: int) -> FedmqError:
    further = f" among the first {settings.limit}; {num_left} more with a higher --limit" if num_left else ""
    return FedmqError(f"no dead letter {', '.join(ids)} in '{settings.dead}'{further}")


def _nothing(settings: DeadSettings) -> str:
    if settings.worker is not None:
        return f"nothing from {printable(settings.worker)} in '{settings.dead}'"
    return f"'{settings.dead}' is empty"


def _print_rest(found: _Letters) -> None:
    if found.num_left:
        print(f"{found.num_left} more were not looked at; see --limit", file=sys.stderr)


# -- for people ---------------------------------------------------------------------------------------------


def _row(letter: Letter) -> tuple[str, ...]:
    return (
        letter.id,
        _shown(letter.sender),
        "does not decode" if letter.round is None else str(letter.round),
        decimal(letter.num_bytes) if letter.blob_bytes is None else f"{decimal(letter.blob_bytes)} blob",
        f"{letter.set_aside_at.astimezone():%Y-%m-%d %H:%M:%S}" if letter.set_aside_at else "unknown",
        printable(letter.reason),
    )


def _as_json(letter: Letter) -> dict[str, Any]:
    fields = asdict(letter)
    when = letter.set_aside_at.isoformat() if letter.set_aside_at else None
    return {"id": fields.pop("id"), "worker": fields.pop("sender")} | fields | {"set_aside_at": when}


def _print_table(rows: Sequence[tuple[str, ...]]) -> None:
    console = Console(markup=False, emoji=False, highlight=False)
    if not console.is_terminal:
        widths = [max(map(len, column)) for column in zip(_COLUMNS, *rows, strict=True)]
        for row in (_COLUMNS, *rows):
            print("  ".join(map(str.ljust, row, widths)).rstrip())
        return
    table = Table(*_COLUMNS[:-1], box=SIMPLE_HEAD)
    for column in table.columns:
        column.no_wrap = True
    table.add_column(_COLUMNS[-1], overflow="fold")
    for row in rows:
        table.add_row(*row)
    console.print(table)


def _facts(opened: Opened, *, has_blob: bool) -> Iterator[tuple[str, str]]:
    """(name, value) of everything that is known about one letter."""
    letter, head = opened.letter, opened.head
    yield "id", letter.id
    yield "sender", _shown(letter.sender)
    yield "reason", printable(letter.reason)
    yield "when", letter.set_aside_at.isoformat() if letter.set_aside_at else "unknown"
    yield "message", f"{letter.num_bytes} bytes"
    if head is None:
        yield "header", f"does not decode: {printable(opened.problem)}"
        yield "begins with", opened.body[:_SHOWN_BYTES].hex(" ") or "nothing"
        return
    for name, value in head.model_dump(exclude={"kind", "tensors", "blob"}).items():
        yield name, printable(str(value))
    yield "body", f"{head.num_bytes} bytes" + ("" if head.blob else " announced, in the message")
    if head.blob:
        yield "blob", f"{head.blob.name}, {'still there' if has_blob else 'gone'}"
        yield "blob parts", f"{head.blob.num_parts(head.num_bytes)} of at most {head.blob.part_bytes} bytes"
    yield "tensors", str(len(head.tensors))
    for spec in head.tensors:
        yield "", f"{printable(spec.name)}  {spec.dtype} {list(spec.shape)}, {spec.num_bytes} bytes"


def _counted(number: int) -> str:
    return f"{number} dead letter{'' if number == 1 else 's'}"


def _shown(sender: str | None) -> str:
    return "unknown" if sender is None else printable(sender)


if __name__ == "__main__":
    raise SystemExit(main())
