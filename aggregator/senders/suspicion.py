"""Messages that may be what kills the aggregator: they come back again and again."""

import contextlib
import hashlib
from collections.abc import Callable, Iterator

from aggregator.state import Ledger
from broker import Delivery

SUSPECT_AFTER = 3
"""Returns of a message after which it is suspected."""
_MAX_ATTEMPTS = 3


@contextlib.contextmanager
def suspected(delivery: Delivery, ledger: Ledger, *, waits: Callable[[], bool]) -> Iterator[str | None]:
    """Counts in the ledger, before each, the attempts at a message that has come back so often.

    Yields the reason to refuse it once its attempts are used up, otherwise None. ``waits`` is asked afterwards: whether
    the message waits for its body, so that the attempt is still to come.
    """
    if delivery.num_returns < SUSPECT_AFTER:
        yield None
        return
    message = hashlib.sha256(delivery.body).hexdigest()
    has_had_its_chances = ledger.attempt(message) > _MAX_ATTEMPTS
    yield f"the aggregator died {_MAX_ATTEMPTS} times while handling this message" if has_had_its_chances else None
    if waits():
        ledger.take_back_attempt(message)
    else:
        ledger.survived(message)
