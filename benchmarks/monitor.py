"""CPU seconds and memory of running processes by role, sampled in a separate thread.

with Monitor({"aggregator": [pid], "worker": [pid, pid]}) as monitor:
    ...
monitor.usage(since, until, num_rounds=5)
"""

import threading
import time
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import psutil

from benchmarks.figures import MB, Usage

LEAST_FREE_BYTES = 2_000 * MB
"""A run that leaves the machine less is ended before the kernel kills a process of its choice."""


@dataclass(slots=True)
class _Seen:
    """One process as last sampled; it may be gone."""

    role: str
    cpu_s: float = 0.0
    peak_bytes: int = 0


class Monitor:
    """Watches the processes with these pids.

    With ``follows_children``, it also watches everything that they start, and kills what is left of that at the end;
    ``moves`` then maps a word of the command line to a role, for children whose role is not their parent's.
    """

    def __init__(
        self,
        roles: Mapping[str, Sequence[int]],
        *,
        every_s: float = 0.1,
        follows_children: bool = False,
        moves: Mapping[str, str] | None = None,
    ) -> None:
        self.is_short_of_memory = False
        self._roots = [(psutil.Process(pid), role) for role, pids in roles.items() for pid in pids]
        self._num = {role: len(pids) for role, pids in roles.items() if pids}
        self._every_s = every_s
        self._follows_children = follows_children
        self._moves = dict(moves or {})
        self._seen: dict[psutil.Process, _Seen] = {}
        self._times: list[float] = []
        self._cpu_s: list[dict[str, float]] = []
        self._tree_bytes: dict[str, int] = defaultdict(int)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="monitor")

    def __enter__(self) -> "Monitor":
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()
        if self._follows_children:
            self.kill_all()

    # -- what was seen --------------------------------------------------------------------------------------

    def usage(self, since: float, until: float, *, num_rounds: int, num_processes: Mapping[str, int]) -> Usage:
        """What was used between two Unix times, which span ``num_rounds`` rounds; memory is of the whole run."""
        before, after = self._cpu_at(since), self._cpu_at(until)
        return Usage(
            cpu_s={
                role: (after[role] - before.get(role, 0.0)) / num_rounds / num_processes.get(role, 1) for role in after
            },
            peak_mb=self.peak_mb(),
            tree_mb={role: num / MB for role, num in self._tree_bytes.items()},
        )

    def peak_mb(self) -> dict[str, float]:
        """By role, the most that the largest process held."""
        peaks: dict[str, float] = defaultdict(float)
        for seen in self._seen.values():
            peaks[seen.role] = max(peaks[seen.role], seen.peak_bytes / MB)
        return dict(peaks)

    def _cpu_at(self, at: float) -> dict[str, float]:
        """CPU seconds by role up to a time, interpolated between two samples."""
        index = bisect_right(self._times, at)
        if index == 0:
            return self._cpu_s[0] if self._cpu_s else {}
        if index == len(self._times):
            return self._cpu_s[-1]
        begin, end = self._times[index - 1], self._times[index]
        share = (at - begin) / (end - begin)
        before, after = self._cpu_s[index - 1], self._cpu_s[index]
        return {role: before.get(role, 0.0) + share * (after[role] - before.get(role, 0.0)) for role in after}

    def kill_all(self) -> None:
        """Kills what is left of the processes seen, but no new process with a reused pid."""
        left = [process for process in self._seen if process.is_running()]
        for process in left:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(left, timeout=5)

    # -- sampling -------------------------------------------------------------------------------------------

    def _watch(self) -> None:
        while not self._stop.is_set():
            begun_at = time.monotonic()
            self._look()
            if psutil.virtual_memory().available < LEAST_FREE_BYTES:
                self.is_short_of_memory = True
                self.kill_all()
            self._stop.wait(max(self._every_s / 2, self._every_s - (time.monotonic() - begun_at)))
        self._look()

    def _look(self) -> None:
        tree_bytes: dict[str, int] = defaultdict(int)
        for process, role in self._family():
            seen = self._seen.setdefault(process, _Seen(role))
            with suppress(psutil.NoSuchProcess, OSError), process.oneshot():
                times = process.cpu_times()
                seen.cpu_s = times.user + times.system
                tree_bytes[role] += process.memory_info().rss
                seen.peak_bytes = max(seen.peak_bytes, peak_bytes(process.pid))
        cpu_s: dict[str, float] = defaultdict(float)
        for seen in self._seen.values():
            cpu_s[seen.role] += seen.cpu_s
        self._times.append(time.time())
        self._cpu_s.append(dict(cpu_s))
        for role, num in tree_bytes.items():
            self._tree_bytes[role] = max(self._tree_bytes[role], num)

    def _family(self) -> Iterator[tuple[psutil.Process, str]]:
        if not self._follows_children:
            yield from self._roots
            return
        children: dict[int, list[psutil.Process]] = defaultdict(list)
        for process in psutil.process_iter(["ppid"]):
            children[process.info["ppid"]].append(process)
        waiting = list(self._roots)
        while waiting:
            process, role = waiting.pop()
            yield process, role
            waiting += [(child, self._role_of(child, role)) for child in children[process.pid]]

    def _role_of(self, child: psutil.Process, parents_role: str) -> str:
        if child in self._seen:
            return self._seen[child].role
        line = ""
        with suppress(psutil.Error):
            line = " ".join(child.cmdline())
        return next((role for word, role in self._moves.items() if word in line), parents_role)


def peak_bytes(pid: int) -> int:
    """The most memory that a process ever held (VmHWM); 0 if it is gone."""
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text(encoding="ascii", errors="replace").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return 0


def forget_peak(pid: int) -> None:
    """Resets the peak of one of our processes to what it holds now."""
    Path(f"/proc/{pid}/clear_refs").write_text("5", encoding="ascii")
