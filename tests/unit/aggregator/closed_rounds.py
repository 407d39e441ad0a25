"""Closed rounds of which it is counted how many are read."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any


class ClosedRounds:
    """In place of a ledger."""

    def __init__(self, rows: Sequence[Mapping[str, Any]]) -> None:
        self.rows, self.num_read = rows, 0

    def rounds(self, *, first: int = 0, last: int | None = None) -> Iterator[Mapping[str, Any]]:
        for row in self.rows:
            if first <= row["round"] and (last is None or row["round"] <= last):
                self.num_read += 1
                yield row
