"""Stage 2: features.h5 and a head -> failures.json: queries that fail, changes against the baseline, hubs, breakdowns.

Shape suffixes: Q queries of all folds, G items of a gallery, T best items of a query.
"""

import numpy as np

from clipret import runs
from clipret.config import DIRECTIONS, FailuresConfig
from clipret.evaluation.inputs import (
    Inputs,
    Ranking,
    check_leakage,
    choose_protocols,
    describe_protocol,
    describe_source,
    open_inputs,
)
from clipret.evaluation.queries import Queries
from clipret.machine.progress import ProgressCallback, silent
from clipret.metrics import metric_of
from clipret.protocols.leakage import copies_of_training
from clipret.retrieval.gallery import rank_folds
from clipret.retrieval.metrics import per_query
from clipret.retrieval.ranks import Ranks
from clipret.runs import check_place, written

# More than the wrong items that are shown per query, as matching items may be among the best in a tie.
_LEAST_TOP = 10
_MOST_BINS = 5
# In a bin of fewer queries, each changes a proportion by more than three percentage points.
_FEW = 30


def find_failures(config: FailuresConfig, *, on_progress: ProgressCallback = silent) -> dict:
    """Analyse where a head fails, in both directions of one protocol, compared with the baseline.

    on_progress  called while galleries are ranked, with phase "ranking"; counts images, once per head

    Returns format, cache, run, head, protocol, leakage and copies as in metrics.json; heads (zero-shot and trained, or
    only the baseline), top, and for each direction in `directions`:

    queries    their number
    worst      the queries whose first matching item has the worst rank under the trained head, worst first
    changed    None for the baseline only; else the counts improved, worsened and same, mean_log2_ratio (of trained rank
               to the baseline's, over all queries), and most_improved and most_worsened, by the ratio of the two
               ranks: from 1 to 10 is more than from 500 to 600; for equal ratios better ranks come first
    hubs       head -> the result of describe_hubs, and largest: the items in the top K of most queries
    overall    head -> R@1, R@10, MRR and median_rank over all queries
    breakdown  the same by caption_length (in words; t2i: of the query, i2t: mean over the image's captions) and by
               positives (number of matching items of the query): bins, each with low and high (smallest and largest
               value), queries, few (fewer than 30) and results; left_out, the number of queries without a caption

    A query is {id, file, caption, image (t2i), fold, ranks: {head: rank}, matching, expected, retrieved}. expected are
    the first three of its matching items; retrieved are the best three of the items that the trained head ranks before
    all of them (none at rank 1). The caption of an image is its first in the gallery. Each fold is ranked separately;
    queries and K-occurrences of all folds are pooled. Ties count against us, so every rank is the worst possible one.

    The result is written to config.out or, if there is a run, to failures.json in its folder. Raises as evaluate does.
    """
    if config.out:
        check_place("out", config.out, suffixes=(".json",), own=runs.FAILURES)
    return analyse(config, open_inputs(config), on_progress=on_progress)


def analyse(
    config: FailuresConfig,
    inputs: Inputs,
    *,
    ranking: Ranking | None = None,
    described: dict | None = None,
    on_progress: ProgressCallback = silent,
) -> dict:
    """As find_failures, of inputs that are open already.

    ranking    ranks by a protocol, as rank_folds returns them, with the best items; None: they are made here
    described  the protocol as describe_protocol describes it; None: it is described here
    """
    source, cache, heads = inputs.source, inputs.cache, inputs.heads
    names = () if config.protocol is None else (config.protocol,)
    (protocol,) = choose_protocols(cache, names=names, split=config.split)
    leakage = check_leakage(cache, protocol, source=source, allowed=config.allow_leak)
    if ranking:
        ranks = ranking(protocol)
    else:
        settings = {"block": config.block, "precision": config.precision, "top": max(config.top, _LEAST_TOP)}
        ranks = rank_folds(
            cache, protocol.folds, heads=heads, device=inputs.device, on_progress=on_progress, **settings
        )
    by_direction = {
        direction: {head: directions[direction] for head, directions in ranks.items()} for direction in DIRECTIONS
    }
    report = {
        "format": runs.FORMAT,
        **describe_source(source, cache),
        "protocol": described or describe_protocol(cache, protocol, precision=config.precision),
        "leakage": leakage,
        "copies": copies_of_training(cache, protocol),
        "heads": list(heads),
        "top": config.top,
        "directions": {
            direction: _describe(Queries(cache, protocol.folds, direction=direction, ranks=of_heads), config=config)
            for direction, of_heads in by_direction.items()
        },
    }
    out = config.out or (source.run / runs.FAILURES if source.run else None)
    if out:
        with written(out):
            runs.write_json(out, report)
    return report


def skewness(values: np.ndarray) -> float:
    """Third standardised moment: mean of ((x - mean) / population standard deviation)^3; 0 if all values are equal.

    For K-occurrences it measures hubness (Radovanovic, Nanopoulos and Ivanovic, JMLR 2010, eq. 1).
    """
    values = np.asarray(values, dtype=np.float64)
    if not len(values) or (values == values[0]).all():
        return 0.0
    off = values - values.mean()
    return float(np.mean(off**3) / np.mean(off**2) ** 1.5)


def describe_hubs(counts: np.ndarray) -> dict:
    """Summary statistics of K-occurrences.

    counts  (G,) the number of queries that have the item in their top K

    Returns items (G), slots (sum of counts), mean, skewness, never_retrieved (number of items in no top K) and
    never_retrieved_share, top_items (1 % of the items, at least one) and top_share (share of the slots taken by the
    top_items most frequent items; 0 without slots).
    """
    items, slots, never = len(counts), int(counts.sum()), int(np.sum(counts == 0))
    top_items = -(-items // 100)
    return {
        "items": items,
        "slots": slots,
        "mean": slots / items,
        "skewness": skewness(counts),
        "never_retrieved": never,
        "never_retrieved_share": never / items,
        "top_items": top_items,
        "top_share": int(np.sort(counts)[-top_items:].sum()) / max(1, slots),
    }


def cut_into_bins(values: np.ndarray, *, most: int = _MOST_BINS) -> tuple[np.ndarray, list[tuple[float, float]]]:
    """Quantile bins. Equal values share a bin, and up to `most` distinct values get a bin each.

    Returns the bin of each value (len(values),), and the smallest and largest value of each bin, in ascending order.
    """
    edges = np.unique(values)
    if len(edges) > most:
        # Indices of the quantiles 1/most, 2/most, ...
        places = -(-np.arange(1, most + 1) * len(values) // most) - 1
        edges = np.unique(np.sort(values)[places])
    bins = np.searchsorted(edges, values)
    return bins, [(values[bins == number].min(), values[bins == number].max()) for number in range(len(edges))]


def _describe(queries: Queries, *, config: FailuresConfig) -> dict:
    first = queries.first[queries.shown]
    worst = np.argsort(-first, kind="stable")[: config.queries]
    values = {head: _metrics(folds) for head, folds in queries.ranks.items()}
    return {
        "queries": len(first),
        "worst": [queries.describe(query) for query in worst],
        "changed": _changes(queries, listed=config.queries) if len(queries.ranks) > 1 else None,
        "hubs": _hubs(queries, config=config),
        "overall": {head: _summary(of_head) for head, of_head in values.items()},
        "breakdown": {
            "caption_length": _breakdown(queries.lengths, values),
            "positives": _breakdown(queries.positives, values),
        },
    }


def _changes(queries: Queries, *, listed: int) -> dict:
    before, after = queries.first.values()
    # A quotient rather than a difference of logarithms, so that equal ratios compare equal.
    ratios, better = after / before, np.minimum(before, after)
    improved, worsened = np.lexsort((better, ratios)), np.lexsort((better, -ratios))
    return {
        "improved": int(np.sum(ratios < 1)),
        "worsened": int(np.sum(ratios > 1)),
        "same": int(np.sum(ratios == 1)),
        "mean_log2_ratio": float(np.mean(np.log2(ratios))),
        "most_improved": [queries.describe(query) for query in improved[:listed] if ratios[query] < 1],
        "most_worsened": [queries.describe(query) for query in worsened[:listed] if ratios[query] > 1],
    }


def _hubs(queries: Queries, *, config: FailuresConfig) -> dict:
    counts = {
        head: [np.bincount(ranks.top[:, : config.top].ravel(), minlength=ranks.gallery) for ranks in folds]
        for head, folds in queries.ranks.items()
    }
    sizes = [ranks.gallery for ranks in queries.ranks[queries.shown]]
    folds, places = np.repeat(np.arange(len(sizes)), sizes), np.concatenate([np.arange(size) for size in sizes])
    pooled = {head: np.concatenate(of_folds) for head, of_folds in counts.items()}
    hubs = {}
    for head, occurrences in pooled.items():
        largest = np.argsort(-occurrences, kind="stable")[: config.queries]
        hubs[head] = describe_hubs(occurrences) | {
            "largest": [
                {
                    **queries.name_item(int(folds[item]), places[item]),
                    "fold": int(folds[item]),
                    "counts": {name: int(numbers[item]) for name, numbers in pooled.items()},
                }
                for item in largest
                if occurrences[item]
            ]
        }
    return hubs


def _metrics(folds: tuple[Ranks, ...]) -> dict[str, np.ndarray]:
    """Metric -> (Q,), over the queries of all folds."""
    of_folds = [per_query(ranks, k=(1, 10), families=("R", "MRR", "median_rank")) for ranks in folds]
    return {name: np.concatenate([values[name] for values in of_folds]) for name in of_folds[0]}


def _summary(values: dict[str, np.ndarray]) -> dict[str, float]:
    return {name: metric_of(name).combined(of_queries) for name, of_queries in values.items()}


def _breakdown(by: np.ndarray, values: dict[str, dict[str, np.ndarray]]) -> dict:
    measured = np.flatnonzero(~np.isnan(by))
    bins, spans = cut_into_bins(by[measured])
    entries = []
    for number, (low, high) in enumerate(spans):
        in_bin = measured[bins == number]
        results = {
            head: _summary({name: of_queries[in_bin] for name, of_queries in metrics.items()})
            for head, metrics in values.items()
        }
        span = {"low": float(low), "high": float(high)}
        entries.append({**span, "queries": len(in_bin), "few": len(in_bin) < _FEW, "results": results})
    return {"bins": entries, "left_out": len(by) - len(measured)}
