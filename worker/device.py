"""Where to train."""

import torch

from console import TaskError


def pick_device(wanted: str) -> str:
    """The device that ``--device`` means here. TaskError if there is no such device."""
    if wanted == "auto":
        if torch.cuda.is_available():
            return "cuda"
        return "mps" if torch.backends.mps.is_available() else "cpu"
    if wanted.startswith("cuda"):
        index = int(wanted.partition(":")[2] or 0)
        if index >= torch.cuda.device_count():
            raise TaskError(f"--device {wanted}: torch sees {torch.cuda.device_count()} GPUs; try --device auto")
    if wanted == "mps" and not torch.backends.mps.is_available():
        raise TaskError("--device mps: there is none here; try --device auto")
    return wanted
