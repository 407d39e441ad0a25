"""Statistics as a table in a terminal."""

from collections.abc import Mapping
from typing import Any

from rich.table import Table

from console import printable
from learning.sums import levels_of

_MOST = 64
_USUAL = ("count", "mean", "std", "min", "max")
_COLUMNS = ("count", "missing", *_USUAL[1:])


def table_of(figures: Mapping[str, Any]) -> Table:
    """A row for each feature; of very many, the first."""
    features = figures["features"]
    columns = _COLUMNS if any(feature["missing"] for feature in features) else _USUAL
    table = Table(title=f"{figures['num_samples']:,} samples at {figures['num_sites']} sites")
    table.add_column("feature", no_wrap=True, overflow="ellipsis")
    for name in (*columns, *(f"{level:g}" for level in levels_of(figures))):
        table.add_column(name, justify="right", no_wrap=True)
    for feature in features[:_MOST]:
        quantiles = [_text(quantile["value"]) for quantile in feature["quantiles"]]
        table.add_row(printable(feature["name"], at_most=32), *(_text(feature[name]) for name in columns), *quantiles)
    more = f"and {len(features) - _MOST} more features; " if len(features) > _MOST else ""
    counts = ", ".join(f"{label}: {count:,}" for label, count in enumerate(figures["labels"][:_MOST]))
    table.caption = more + (f"labels {counts}" if counts else "") or None
    return table


def _text(value: float | None) -> str:
    return "" if value is None else f"{value:,}" if isinstance(value, int) else f"{value:.4g}"
