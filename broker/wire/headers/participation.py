"""Who takes part in a round: the same pure function at every worker and at the aggregator.

Each worker has a place between 0 and 2^64 in each draw of each round, by a hash. Who is below the threshold of the draw
takes part. Everybody can work out who that is: a choice, and no secret.
"""

import hashlib
from collections.abc import Iterable
from heapq import nsmallest
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, StrictInt

PLACES = 2**64
"""Places are below it."""


class Draw(BaseModel):
    """One draw of those that take part in a round, as it travels with the round's model."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    number: Annotated[StrictInt, Field(ge=0, lt=2**40)]
    """The first draw of a round is 1, and a later one counts in its place; 0: nobody is drawn yet."""
    threshold: Annotated[StrictInt, Field(ge=0, lt=PLACES)]

    def chooses(self, worker: str, *, seed: int, round_number: int) -> bool:
        """Whether this worker takes part in the round, in a run with this seed."""
        return self.number > 0 and place_of(worker, seed=seed, round_number=round_number, draw=self.number) < (
            self.threshold
        )


def place_of(worker: str, *, seed: int, round_number: int, draw: int = 1) -> int:
    """A worker's place in a draw: the first eight bytes, little-endian, of a SHA-256."""
    again = "" if draw == 1 else f"{draw - 1}/"
    text = f"{seed}/{round_number}/{again}{worker}/select"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little")


def threshold_of_share(share: float) -> int:
    """The threshold below which a worker is with this probability."""
    return min(int(share * PLACES), PLACES - 1)


def threshold_of_count(places: Iterable[int], count: int) -> int:
    """The threshold below which there are ``count`` of these places, or all if there are fewer."""
    smallest = nsmallest(count, places)
    return min(smallest[-1] + 1, PLACES - 1) if smallest else 0
