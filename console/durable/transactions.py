"""Transactions of SQLite, for ledgers."""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from console.errors import StateError


@contextmanager
def transaction(database: sqlite3.Connection, path: Path) -> Iterator[None]:
    """All that is asked and written inside the ``with`` is one step, all or nothing. StateError if it fails.

    The file at ``path`` is locked against other writers from the beginning, so that what is asked still holds when it
    is written.
    """
    try:
        database.execute("BEGIN IMMEDIATE")
        yield
        database.execute("COMMIT")
    except sqlite3.Error as error:
        raise StateError(f"{path}: {error}") from error
    finally:
        if database.in_transaction:
            database.execute("ROLLBACK")
