"""How a log record becomes a line: aligned text for people, or one JSON object for machines."""

import logging
from typing import Literal

from pythonjsonlogger.core import RESERVED_ATTRS
from pythonjsonlogger.json import JsonFormatter

from console.printable import printable

LogFormat = Literal["text", "json"]

IS_SHOWN = "is_shown"
"""In the ``extra`` of a log call: a live view already shows what the line says, and leaves the line out."""

_TEXT = "%(asctime)s %(levelname)-7s %(message)s"
TEXT_INDENT = 17
"""Where the message begins."""
_JSON_NAMES = {"levelname": "level", "name": "logger", "exc_info": "exception", "stack_info": "stack"}


def formatter_of(log_format: LogFormat) -> logging.Formatter:
    """Text: time, level, message. JSON: also the logger, and what a call gave as ``extra``, each a field.

    JSON's time is ISO 8601 in UTC with its zone, and a traceback is the field ``exception``.
    """
    if log_format == "text":
        return _TextLines(_TEXT, datefmt="%H:%M:%S")
    return JsonFormatter(
        "%(levelname)s %(name)s %(message)s",
        rename_fields=_JSON_NAMES,
        reserved_attrs=[*RESERVED_ATTRS, IS_SHOWN],
        timestamp="time",
        json_ensure_ascii=False,
    )


def is_json() -> bool:
    """Whether this process logs JSON."""
    return any(isinstance(handler.formatter, JsonFormatter) for handler in logging.getLogger().handlers)


class _TextLines(logging.Formatter):
    """A message is one line, whatever a sender put into it; a traceback comes below it."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802  the name is logging's
        record.message = printable(record.message)
        return super().formatMessage(record)
