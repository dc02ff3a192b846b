"""What a row of the table of metrics says."""

from collections.abc import Callable
from dataclasses import dataclass
from math import inf, isfinite

import numpy as np

HIGHER, LOWER = "higher", "lower"
_SCALES = {"%": 100, "rank": 1}
_COMBINED = {"mean": np.mean, "median": np.median}


@dataclass(frozen=True)
class Metric:
    """One metric.

    values      the function of QueryRanks: (ranks) -> (Q,) float64; with needs_k, (ranks, K) -> (Q,) float64
    unit        %: values are fractions, shown times 100; rank: shown as they are
    better      higher or lower
    needs_k     whether it is a metric of the first K items, for any K
    lowest, highest  the range of a query's value; inf: there is no bound
    combine     how queries are combined: mean or median
    validation  whether training measures it after every epoch
    reachable   whether it depends on the best rank alone, and the best value that any head can reach is reported

    Raises ValueError for a unit, direction or combination that nothing knows how to show or compute.
    """

    values: Callable[..., np.ndarray]
    unit: str = "%"
    better: str = HIGHER
    needs_k: bool = False
    lowest: float = 0.0
    highest: float = 1.0
    combine: str = "mean"
    validation: bool = False
    reachable: bool = False

    def __post_init__(self):
        for field, allowed in (("unit", _SCALES), ("better", (HIGHER, LOWER)), ("combine", _COMBINED)):
            if getattr(self, field) not in allowed:
                raise ValueError(f"{field} is {getattr(self, field)!r}; expected one of: {', '.join(allowed)}")

    @property
    def scale(self) -> int:
        """What a value is multiplied by where it is shown."""
        return _SCALES[self.unit]

    @property
    def is_median(self) -> bool:
        """Whether queries are combined by their median."""
        return self.combine == "median"

    @property
    def limit(self) -> float:
        """The largest mean over queries, where means lie between 0 and it; inf: a mean has no interval."""
        return self.highest if self.lowest == 0 and isfinite(self.highest) and not self.is_median else inf

    def combined(self, values: np.ndarray) -> float:
        """The figure of some queries' values (Q,)."""
        return float(_COMBINED[self.combine](values))


# Of the rows that are ranks.
RANK = {"unit": "rank", "better": LOWER, "lowest": 1.0, "highest": inf}
