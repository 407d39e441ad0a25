"""The model of a run as a file for elsewhere: a plain state dict, safetensors, or a card that describes it."""

import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file

from aggregator.history.history import History
from aggregator.history.model_card import model_card
from console import SettingsError, StateError

FORMATS = (".pt", ".pth", ".safetensors", ".md")


def export(history: History, which: int | str, target: Path) -> None:
    """Writes the model after a round, ``last`` or ``best``, in the format that the ending of ``target`` names.

    ``.pt`` and ``.pth`` are a dict of tensors that ``torch.load(weights_only=True)`` reads. A StateError if the run
    keeps no such model or the file cannot be written, a SettingsError for another ending.
    """
    kind = target.suffix.lower()
    if kind not in FORMATS:
        raise SettingsError(f"--to {target}: its ending says the format: {', '.join(FORMATS)}")
    source = history.model_path(which)
    unfinished = target.with_name(f".{target.name}.tmp")
    try:
        if kind == ".md":
            unfinished.write_text(model_card(history, which), encoding="utf-8")
        elif kind == ".safetensors":
            shutil.copyfile(source, unfinished)
        else:
            with unfinished.open("wb") as file:
                torch.save(load_file(source), file)
        unfinished.replace(target)
    except OSError as error:
        unfinished.unlink(missing_ok=True)
        raise StateError(f"{target} cannot be written: {error.strerror}") from error
