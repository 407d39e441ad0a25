"""Which shard a partial aggregator sums up."""

from dataclasses import dataclass

from broker.wire import MAX_SHARDS


@dataclass(frozen=True, slots=True)
class Shard:
    """One of the root's shards, counted from 0."""

    index: int
    num_shards: int

    @classmethod
    def parse(cls, text: str) -> "Shard":
        """From ``I/N``. Anything else is a ValueError."""
        index, slash, num_shards = text.partition("/")
        if slash and index.isdecimal() and num_shards.isdecimal() and int(index) < int(num_shards) <= MAX_SHARDS:
            return cls(int(index), int(num_shards))
        raise ValueError(f"expected I/N with 0 <= I < N <= {MAX_SHARDS}, such as 0/2")

    def __str__(self) -> str:
        return f"{self.index}/{self.num_shards}"
