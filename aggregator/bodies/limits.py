"""How long a body may take, and how many are read at a time."""

from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True, kw_only=True)
class BodyLimits:
    """For all bodies in blobs. The time while the connection to the broker is away does not count."""

    stall_s: float = 20.0
    """The longest wait for the next part."""
    base_s: float = 20.0
    bytes_per_s: int = 256 * 2**10
    """A whole body may take ``base_s``, and a second more for each ``bytes_per_s`` of it."""
    num_active: int = 2
    """Bodies read at a time, as long as their parts come."""
    memory_bytes: int = 128 * 2**20
    """The most that bodies take in memory, all together, while they are read."""
    alone_bytes: int = 512 * 2**20
    """The most that a single one takes there. Larger ones are read into files, as are those that overtake one in memory
    whose parts do not come."""
    active_s: float = 0.5
    """Without a new part for this long, a body does not keep others from being read."""
    num_of_sender: int = 4
    """Updates of one worker whose bodies are waited for; for one more, the oldest is given up."""

    def in_files(self) -> "BodyLimits":
        """The same, with no body in memory."""
        return replace(self, memory_bytes=0, alone_bytes=0)

    def longest_s(self, num_bytes: int) -> float:
        """The longest that a body of this size may take."""
        return self.base_s + num_bytes / self.bytes_per_s

    def reason(self, num_bytes: int, *, since_begin_s: float, since_part_s: float) -> str | None:
        """Why it has taken too long, in words; None if it has not."""
        if since_part_s >= self.stall_s:
            return f"no new part of its body came for {self.stall_s:g} s"
        longest_s = self.longest_s(num_bytes)
        if since_begin_s >= longest_s:
            return f"its body of {num_bytes} bytes is not there after {longest_s:.0f} s"
        return None
