"""Rules that a minority of false updates cannot lead astray: pure functions of numbers, one file a paper.

They know no names, no files and no time. What they see of the updates is put in order by those who call them.
"""

from aggregator.robust.bulyan import Bulyan
from aggregator.robust.geometric_median import GeometricMedian
from aggregator.robust.krum import Krum
from aggregator.robust.median import Median
from aggregator.robust.named import Robust
from aggregator.robust.rule import Choosing, Columns, Columnwise, Floats, Rule
from aggregator.robust.trimmed import Trimmed

__all__ = [
    "Bulyan",
    "Choosing",
    "Columns",
    "Columnwise",
    "Floats",
    "GeometricMedian",
    "Krum",
    "Median",
    "Robust",
    "Rule",
    "Trimmed",
]
