"""How many models were charged to the privacy budget, by their noise: each row is read once while the run goes on."""

import sqlite3
from collections import Counter
from collections.abc import Mapping


class Charged:
    """The rows of ``releases``, which are never changed nor deleted, so that new ones come after all others."""

    def __init__(self) -> None:
        self._by_noise: Counter[float] = Counter()
        self._last = 0

    def counted(self, database: sqlite3.Connection) -> Mapping[float, int]:
        """Noise multiplier -> how many there are; those of a transaction that is still open are not remembered."""
        new = "SELECT noise, count(*), max(rowid) FROM releases WHERE rowid > ? GROUP BY noise"
        rows = database.execute(new, (self._last,)).fetchall()
        by_noise = self._by_noise + Counter({float(noise): int(number) for noise, number, _ in rows})
        if not database.in_transaction:
            self._by_noise, self._last = by_noise, max([self._last, *(last for _, _, last in rows)])
        return by_noise
