"""What this machine can do at best: copy memory, send over loopback, sync to its disk."""

import os
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchmarks.figures import MB, Row, Spread

WORKLOAD = "limits"
_NUM_BYTES = 100 * MB
_REPEATS = 7


def rows(folder: Path, *, when: str) -> list[Row]:
    """Memory copy and loopback TCP of 100 MB, and a small write with fsync in ``folder``."""
    return [
        Row(workload=WORKLOAD, system=f"memory copy, {when}", unit="MB/s", value=memory_copy()),
        Row(workload=WORKLOAD, system=f"loopback TCP, {when}", unit="MB/s", value=loopback_tcp()),
        Row(workload=WORKLOAD, system=f"4 KiB write with fsync, {when}", unit="s", value=small_sync(folder)),
    ]


def memory_copy(num_bytes: int = _NUM_BYTES) -> Spread:
    """MB/s of copying between two arrays that are in memory already."""
    source, target = np.ones(num_bytes, np.uint8), np.zeros(num_bytes, np.uint8)
    return _mb_per_s(num_bytes, lambda: np.copyto(target, source))


def loopback_tcp(num_bytes: int = _NUM_BYTES) -> Spread:
    """MB/s from one thread to another; both wait in the kernel without the interpreter's lock."""
    with socket.create_server(("127.0.0.1", 0)) as server, socket.socket() as sender:
        sender.connect(server.getsockname())
        receiver, _ = server.accept()
        with receiver:
            data, target = bytes(num_bytes), memoryview(bytearray(num_bytes))

            def send_all() -> None:
                for _ in range(1 + _REPEATS):
                    sender.sendall(data)
                    sender.recv(1)

            thread = threading.Thread(target=send_all, name="loopback sender")
            thread.start()

            def receive() -> None:
                num = 0
                while num < num_bytes:
                    num += receiver.recv_into(target[num:])
                receiver.sendall(b".")

            spread = _mb_per_s(num_bytes, receive)
            thread.join()
            return spread


def small_sync(folder: Path) -> Spread:
    """Seconds of appending 4 KiB to a file and waiting for the disk."""
    path = folder / "sync.probe"
    block = bytes(4096)
    with path.open("wb", buffering=0) as file:

        def append() -> None:
            file.write(block)
            os.fsync(file.fileno())

        seconds = [_seconds(append) for _ in range(1 + 20)]
    path.unlink()
    return Spread.of(seconds[1:])


def _mb_per_s(num_bytes: int, action: Callable[[], None]) -> Spread:
    seconds = [_seconds(action) for _ in range(1 + _REPEATS)]
    return Spread.of([num_bytes / MB / one for one in seconds[1:]])


def _seconds(action: Callable[[], None]) -> float:
    begun_at = time.perf_counter()
    action()
    return time.perf_counter() - begun_at
