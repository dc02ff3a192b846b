"""Stage 2: features.h5 and a head -> metrics.json. No image, no CLIP, no GPU needed."""

from collections.abc import Iterable, Iterator
from dataclasses import replace

import numpy as np

from clipret import runs
from clipret.cache import FeatureCache
from clipret.config import METRICS, CompareConfig, EvalConfig
from clipret.evaluation.inputs import (
    Inputs,
    check_leakage,
    choose_protocols,
    describe_protocol,
    describe_source,
    describe_trained,
    open_inputs,
)
from clipret.evaluation.languages import language_means
from clipret.evaluation.per_query import check_per_query_path, per_query_table, write_per_query
from clipret.heads.base import Head
from clipret.machine.progress import Progress, ProgressCallback, silent
from clipret.metrics import RSUM
from clipret.protocols.leakage import copies_of_training
from clipret.protocols.protocol import Protocol
from clipret.retrieval.gallery import rank_folds
from clipret.retrieval.metrics import rsum
from clipret.retrieval.ranks import Ranks
from clipret.retrieval.ranks_file import ProtocolRankings, Rankings, rankings_path, write_rankings
from clipret.runs import check_place, written
from clipret.statistics.flips import flip_tests
from clipret.statistics.intervals import Evidence, all_columns, nested, tabulate
from clipret.statistics.significance import INTERVALS, estimate, intervals_of

# Progress is shown for galleries of more scores than this: a quarter of COCO's 5,000 x 25,010.
_LONG = 1 << 25


def evaluate(config: EvalConfig, *, on_progress: ProgressCallback = silent) -> dict:
    """Measure all metrics by one or more protocols, in both directions, the baseline and trained, with intervals.

    on_progress  called after each protocol, with phase "protocols", and while a large gallery is ranked

    Returns the content of metrics.json: format, cache, run and head (None for the baseline only), finished (whether the
    run was complete), and for the first protocol

        protocol   name, split, counts, tie rule, mAP's divisor, precision, digest of the queries and items, remarks
        leakage    None for the baseline only; else checked and trained_on, the number of images the head was trained on
        copies     how many of its images equal images of train, byte for byte: split, images, copies, of; None on train
        results    {"zero-shot": {"t2i": {...}, "i2t": {...}}, "trained": {...}} as fractions, and between them
                   "wise-ft ALPHA" for each of config.wise_ft; of encoders that were never aligned "closed-form" is in
                   the place of "zero-shot"
        rsum       head -> sum of R@K over config.k and both directions
        intervals  None, or level, method, resamples, heads (as results, and "rsum", with [low, high] or None instead of
                   numbers: see significance.py) and gain, the same for trained less the baseline, None without a
                   trained head

    Further protocols are in the list `also`, in the same form; each language of a multilingual cache is a protocol, and
    `languages` is what language_means returns for several; `remarks` on the head, if any. The result is written to
    config.out or the run's folder if there is one, with the ranks next to it (ranks_file.py).

    Raises RunError, CacheError, HeadError, UsageError, or LeakageError when a gallery holds images that the head was
    trained on and config.allow_leak is not set.
    """
    if config.out:
        check_place("out", config.out, suffixes=(".json",), own=runs.METRICS)
    if config.per_query:
        check_per_query_path(config.per_query)
    inputs = open_inputs(config)
    source, cache, heads = inputs.source, inputs.cache, inputs.heads
    trained = describe_trained(source)
    protocols = choose_protocols(cache, names=config.protocol, split=config.split, languages=config.language)
    # Checked for all protocols first, so that an error does not waste the time of a measurement.
    leaks = [check_leakage(cache, protocol, source=source, allowed=config.allow_leak) for protocol in protocols]
    measured, ranked = [], []
    for protocol, leakage in zip(protocols, leaks, strict=True):
        ranks = _rank(inputs, protocol, heads=heads, config=config, on_progress=on_progress)
        description = describe_protocol(cache, protocol, precision=config.precision, k=config.cuts)
        ranked.append(ProtocolRankings(description, ranks, leakage))
        about = {"leakage": leakage, "copies": copies_of_training(cache, protocol)}
        measured.append({"protocol": description, **about, **_figures(ranked[-1], config)})
        on_progress(Progress("protocols", len(measured), len(protocols)))
    remarks = [remark for head in heads.values() for remark in head.remarks]
    report = {
        "format": runs.FORMAT,
        **describe_source(source, cache),
        **measured[0],
        **({"also": measured[1:]} if len(measured) > 1 else {}),
        **({"languages": means} if (means := language_means(measured)) else {}),
        **({"remarks": remarks} if remarks else {}),
    }
    if config.per_query:
        write_per_query(config.per_query, _per_query(cache, zip(protocols, ranked, strict=True)))
    out = config.out or (source.run / runs.METRICS if source.run else None)
    if out:
        with written(out):
            write_rankings(rankings_path(out), Rankings(report["cache"], tuple(ranked), trained))
            runs.write_json(out, report)
    return report


def _rank(
    inputs: Inputs, protocol: Protocol, *, heads: dict[str, Head], config: EvalConfig, on_progress: ProgressCallback
) -> dict[str, dict[str, tuple[Ranks, ...]]]:
    long = any(len(fold.image_rows) * len(fold.text_rows) > _LONG for fold in protocol.folds)
    return rank_folds(
        inputs.cache,
        protocol.folds,
        heads=heads,
        device=inputs.device,
        on_progress=on_progress if long else silent,
        block=config.block,
        precision=config.precision,
        top=config.top if config.per_query else 0,
    )


def _figures(ranked: ProtocolRankings, config: EvalConfig) -> dict:
    """results, rsum and intervals of metrics.json."""
    tables = tabulate(list(ranked.heads.values()), k=config.cuts, families=METRICS)
    evidence = Evidence(tables, all_columns((*tables[0].names, RSUM)), k=config.k)
    results = dict(zip(ranked.heads, evidence.figures(), strict=True))
    return {
        "results": results,
        "rsum": {head: rsum(directions, k=config.k) for head, directions in results.items()},
        "intervals": _intervals(evidence, list(ranked.heads), config) if config.resamples else None,
    }


def _intervals(evidence: Evidence, heads: list[str], config: EvalConfig) -> dict:
    level = CompareConfig.level
    estimates = {head: estimate(evidence, (place,), level=level) for place, head in enumerate(heads)}
    return {
        "level": level,
        "method": INTERVALS,
        "resamples": config.resamples,
        "heads": {head: nested(intervals_of(estimated), evidence.columns) for head, estimated in estimates.items()},
        "gain": _gain(evidence, heads, config=config) if "trained" in heads else None,
    }


def _gain(evidence: Evidence, heads: list[str], *, config: EvalConfig) -> dict:
    # The gain has no interval for unbounded metrics, and flips of medians take longer than everything else.
    places = np.flatnonzero(np.isfinite(evidence.limits))
    bounded = replace(evidence, columns=tuple(evidence.columns[place] for place in places))
    pair = heads.index("trained"), 0
    (gain,) = flip_tests(bounded, [pair], flips=config.resamples, level=CompareConfig.level, seed=config.seed)
    intervals = dict.fromkeys(evidence.columns) | dict(zip(bounded.columns, intervals_of(gain), strict=True))
    return nested(intervals.values(), evidence.columns)


def _per_query(cache: FeatureCache, measured: Iterable[tuple[Protocol, ProtocolRankings]]) -> Iterator:
    for protocol, ranked in measured:
        for head, directions in ranked.heads.items():
            for direction, folds in directions.items():
                for number, (fold, ranks) in enumerate(zip(protocol.folds, folds, strict=True)):
                    names = {"protocol": protocol.name, "direction": direction, "head": head}
                    yield per_query_table(cache, fold, number, ranks=ranks, **names)
