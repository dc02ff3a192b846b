"""Ranks -> the metrics of clipret.metrics, for every query and over all queries.

Shape suffixes: Q queries.
"""

from collections.abc import Collection, Iterator
from statistics import fmean

import numpy as np

from clipret.config import EvalConfig
from clipret.metrics import METRICS, QueryRanks, metric_of, row, values_of
from clipret.retrieval.ranks import Ranks

_QUERIES_AT_ONCE = 65_536


def per_query(
    ranks: Ranks, *, k: tuple[int, ...] = EvalConfig.k, families: Collection[str] = METRICS
) -> dict[str, np.ndarray]:
    """Full name of each metric -> (Q,) float64, in the order of the table.

    families  names of rows of METRICS

    Raises ValueError for an unknown name.
    """
    query_ranks = QueryRanks(ranks.ranks, ranks.offsets, ranks.gallery)
    values: dict[str, np.ndarray] = {}
    for family in families:
        row(family)
    for family in METRICS:
        if family in families:
            values |= values_of(family, query_ranks, k=k)
    return values


def summarise(
    ranks: Ranks, *, k: tuple[int, ...] = EvalConfig.k, families: Collection[str] = METRICS
) -> dict[str, float]:
    """{"R@1": ..., "mAP@1": ..., ..., "median_rank": ...}: the metrics over all queries."""
    parts: dict[str, list] = {}
    for part in _parts(ranks):
        for name, values in per_query(part, k=k, families=families).items():
            # For means only sums are kept: all values of half a million queries take a hundred megabytes.
            parts.setdefault(name, []).append(values if metric_of(name).is_median else values.sum())
    return {name: _over_queries(name, values, queries=ranks.queries) for name, values in parts.items()}


def summarise_folds(folds: Collection[Ranks], **settings) -> dict[str, float]:
    """The mean of summarise over galleries; settings as for summarise."""
    figures = [summarise(ranks, **settings) for ranks in folds]
    return {name: fmean(metrics[name] for metrics in figures) for name in figures[0]}


def overall(name: str, values: np.ndarray) -> float:
    """A metric over all queries, from its values (Q,); bit-identical to summarise."""
    if metric_of(name).is_median:
        return _over_queries(name, [values], queries=len(values))
    starts = range(0, len(values), _QUERIES_AT_ONCE)
    sums = [values[start : start + _QUERIES_AT_ONCE].sum() for start in starts]
    return _over_queries(name, sums, queries=len(values))


def rsum(directions: dict[str, dict[str, float]], *, k: tuple[int, ...] = EvalConfig.k) -> float:
    """Sum of R@K over these K and both directions: for K = 1, 5, 10 between 0 and 6."""
    return sum(metrics[f"R@{cut}"] for metrics in directions.values() for cut in k)


def _over_queries(name: str, parts: list, *, queries: int) -> float:
    """The median of values, part by part, or the mean of their sums."""
    if metric_of(name).is_median:
        return metric_of(name).combined(np.concatenate(parts))
    return float(sum(parts, 0.0) / queries)


def _parts(ranks: Ranks) -> Iterator[Ranks]:
    """The ranks in blocks of queries."""
    for start in range(0, ranks.queries, _QUERIES_AT_ONCE):
        offsets = ranks.offsets[start : start + _QUERIES_AT_ONCE + 1]
        yield Ranks(ranks.ranks[offsets[0] : offsets[-1]], offsets - offsets[0], ranks.gallery)
