"""What a user's code raises, as a TaskError of one line that says what was done, what was raised and where."""

import logging
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

from console import FedmqError, TaskError
from learning.user_code.packages import OUR_PACKAGES

log = logging.getLogger(__name__)

_OURS = Path(__file__).parents[2]
_MAX_MESSAGE = 500
"""Characters of an exception's own words; some print whole tensors."""


@contextmanager
def blamed(doing: str) -> Iterator[None]:
    """Within, whatever is raised becomes a TaskError, ``sys.exit()`` too; Ctrl-C and our own errors pass.

    ``doing`` begins the message. The traceback is logged at DEBUG, and is the error's cause.
    """
    try:
        yield
    except FedmqError:
        raise
    except (Exception, SystemExit) as error:  # a user's code may raise anything
        blame(doing, error)


def blame(doing: str, error: BaseException) -> NoReturn:
    """Raises the TaskError that says what failed, with the exception and the line of it, on one line."""
    message = " ".join(str(error).split())
    if len(message) > _MAX_MESSAGE:
        message = f"{message[:_MAX_MESSAGE]} …"
    log.debug("%s raised %s", doing, type(error).__name__, exc_info=error)
    raise TaskError(f"{doing} raised {type(error).__name__}{message and f': {message}'} ({line_of(error)})") from error


def line_of(error: BaseException) -> str:
    """`file:line` of the innermost frame that is the user's: not ours, nor an installed package's."""
    if isinstance(error, SyntaxError):
        return f"{error.filename}:{error.lineno}"
    frames = traceback.extract_tb(error.__traceback__)
    own = [
        frame
        for frame in frames
        if frame.filename != __file__
        and not frame.filename.startswith(("<frozen", sys.base_prefix + "/lib"))
        and "site-packages" not in frame.filename
    ]
    users = [frame for frame in own if not _is_ours(frame.filename)]
    last = (users or own or frames)[-1]
    return f"{last.filename}:{last.lineno}"


def _is_ours(filename: str) -> bool:
    """Whether a file is in one of fedmq's packages; what else lies in a clone, such as examples, is a user's."""
    path = Path(filename)
    return path.is_relative_to(_OURS) and path.relative_to(_OURS).parts[0] in OUR_PACKAGES
