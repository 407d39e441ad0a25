"""The same bits each time on the same device: PyTorch's deterministic algorithms."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

_WORKSPACE, _FIXED = "CUBLAS_WORKSPACE_CONFIG", ":4096:8"
"""Without a workspace of a fixed size, cuBLAS may add up in another order. It is read when cuBLAS is first used."""


@contextmanager
def deterministic(*, is_wanted: bool) -> Iterator[None]:
    """Within, if that is wanted: an operation takes an algorithm that gives the same bits each time.

    One that has none raises a RuntimeError that names it.
    """
    if not is_wanted:
        yield
        return
    os.environ.setdefault(_WORKSPACE, _FIXED)
    cudnn = torch.backends.cudnn
    before = torch.are_deterministic_algorithms_enabled(), cudnn.deterministic, cudnn.benchmark
    torch.use_deterministic_algorithms(True)
    cudnn.deterministic, cudnn.benchmark = True, False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0])
        cudnn.deterministic, cudnn.benchmark = before[1:]
