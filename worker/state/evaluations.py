"""What a site has measured of the models of a run: a file with a line a round, to which each round adds one."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from console import StateError
from console.durable import append_line, replace_file


class Evaluations:
    """Those in ``path``, which need not be there yet. StateError if it cannot be read."""

    def __init__(self, path: Path) -> None:
        self._path = path
        rows, self._is_whole = _read(path)
        self._newest = max(rows, default=None)

    def add(self, round_number: int, metrics: Mapping[str, Any]) -> None:
        """Records what was measured of the model after this round; again, in its place. StateError if it cannot be."""
        if self._is_whole and self._newest is not None and round_number > self._newest:
            self._is_whole = False
            append_line(self._path, _line(round_number, metrics))
        else:
            rows = {**_read(self._path)[0], round_number: metrics}
            text = "".join(f"{_line(*row)}\n" for row in sorted(rows.items()))
            replace_file(self._path, lambda path: path.write_text(text, "utf-8"))
        self._is_whole = True
        self._newest = round_number if self._newest is None else max(round_number, self._newest)

    def of(self, round_number: int) -> Mapping[str, Any]:
        """What was measured of the model after this round; nothing if it was not."""
        return _read(self._path)[0].get(round_number, {})


def _line(round_number: int, metrics: Mapping[str, Any]) -> str:
    return json.dumps({"round": round_number, "metrics": metrics})


def _read(path: Path) -> tuple[dict[int, Mapping[str, Any]], bool]:
    """The rows by round, and whether the last one is whole; what a power cut left of a line counts as none."""
    try:
        *lines, rest = path.read_bytes().split(b"\n")
        rows: list[Any] = [json.loads(line) for line in lines]
        return {int(row["round"]): dict(row["metrics"]) for row in rows}, not rest
    except FileNotFoundError:
        return {}, True
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise StateError(f"{path} cannot be read: {error}; move it away, and the run goes on without it") from error
