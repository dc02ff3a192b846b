"""Metrics of ranks: one table, from which names, units, ranges, formats and "lower is better" follow everywhere.

To add a metric: a function in a file of this room, and a row here. Every metric is first a number of each query, and
then their mean, or their median: the queries' own numbers are what intervals and tests are made from. One rule of ties
for all metrics, the ranks' own: ties count against the head.
"""

import numpy as np

from clipret.metrics.metric import LOWER, RANK, Metric
from clipret.metrics.ndcg import ndcg_at_k
from clipret.metrics.precision import map_all_at_k, map_at_k, map_at_r, map_hits_at_k
from clipret.metrics.query_ranks import QueryRanks
from clipret.metrics.rank import best_rank, hit_at_k, reciprocal_rank
from clipret.metrics.recall import r_precision, recall_at_k

__all__ = [
    "METRICS",
    "MOST_CUT",
    "RSUM",
    "Metric",
    "QueryRanks",
    "cut_of",
    "family_of",
    "heading_of",
    "is_lower_better",
    "metric_of",
    "row",
    "scale_of",
    "validation_metrics",
    "values_of",
    "with_k",
]

# In the order that tables and files have them; those with a K come first.
METRICS: dict[str, Metric] = {
    "R": Metric(hit_at_k, needs_k=True, validation=True, reachable=True),
    "mAP": Metric(map_at_k, needs_k=True, validation=True),
    "mAP_hits": Metric(map_hits_at_k, needs_k=True),
    "mAP_all": Metric(map_all_at_k, needs_k=True),
    "recall": Metric(recall_at_k, needs_k=True),
    "nDCG": Metric(ndcg_at_k, needs_k=True),
    "MRR": Metric(reciprocal_rank),
    "R-Precision": Metric(r_precision),
    "mAP@R": Metric(map_at_r),
    "mean_rank": Metric(best_rank, **RANK),
    "median_rank": Metric(best_rank, **RANK, combine="median", validation=True),
}
# The sum of R@K over some K and both directions: no metric of one query, and so no row.
RSUM = "rsum"
# No gallery has more items.
MOST_CUT = 1_000_000_000


def row(family: str) -> Metric:
    """The row of that name. Raises ValueError when there is none."""
    if family not in METRICS:
        raise ValueError(f"there is no metric {family!r}; expected one of: {', '.join(METRICS)}")
    return METRICS[family]


def values_of(family: str, ranks: QueryRanks, *, k: tuple[int, ...]) -> dict[str, np.ndarray]:
    """{full name: (Q,) float64} of one row, at every K where it has one. Raises ValueError when there is no row."""
    metric = row(family)
    if metric.needs_k:
        return {f"{family}@{cut}": metric.values(ranks, cut) for cut in k}
    return {family: metric.values(ranks)}


def with_k() -> tuple[str, ...]:
    """Names of the metrics that have a K in their full names: R, for R@1."""
    return tuple(name for name, metric in METRICS.items() if metric.needs_k)


def validation_metrics() -> tuple[str, ...]:
    """Names of the metrics that training measures after every epoch."""
    return tuple(name for name, metric in METRICS.items() if metric.validation)


def family_of(name: str) -> str:
    """The row that a full name is of: R for R@1 and for rsum, mAP@R for mAP@R."""
    if name == RSUM:
        return "R"
    return name if cut_of(name) is None else name.rpartition("@")[0]


def cut_of(name: str) -> int | None:
    """The K of a full name; None where it has none."""
    cut = name.rpartition("@")[2]
    if "@" not in name or not cut.isascii() or not cut.isdecimal() or len(cut) > len(str(MOST_CUT)):
        return None
    return int(cut) if 0 < int(cut) <= MOST_CUT else None


def metric_of(name: str) -> Metric:
    """The row of a full name; of rsum that of R, whose sum it is. Raises ValueError when there is none."""
    return row(family_of(name))


def is_lower_better(name: str) -> bool:
    """Whether a smaller value of this metric is the better one."""
    return metric_of(name).better == LOWER


def scale_of(name: str) -> int:
    """What a value is multiplied by where it is shown: 100 for per cent, 1 for ranks and rsum."""
    return 1 if name == RSUM else metric_of(name).scale


def heading_of(name: str) -> str:
    """The name as tables show it: median rank."""
    return name if metric_of(name).needs_k else name.replace("_", " ")
