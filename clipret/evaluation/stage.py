"""Stage 2: features.h5 and a head -> metrics.json. No image, no CLIP, no GPU needed."""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from statistics import fmean

from clipret import runs
from clipret.cache import FeatureCache
from clipret.config import DIRECTIONS, METRICS, CompareConfig, EvalConfig
from clipret.config.metric_names import LOWER_IS_BETTER, RSUM
from clipret.evaluation.inputs import (
    check_leakage,
    choose_protocols,
    describe_protocol,
    describe_source,
    describe_trained,
    find_source,
    load_heads,
    open_cache,
)
from clipret.evaluation.per_query import check_per_query_path, per_query_table, write_per_query
from clipret.heads.base import Head
from clipret.machine.devices import choose_device
from clipret.progress import Progress, ProgressCallback, silent
from clipret.protocols.leakage import copies_of_training
from clipret.protocols.protocol import Protocol
from clipret.retrieval.gallery import Gallery
from clipret.retrieval.metrics import rsum, summarise
from clipret.retrieval.ranks_file import ProtocolRankings, Ranking, Rankings, rankings_path, write_rankings
from clipret.runs import check_place, written
from clipret.statistics.flips import flip_tests
from clipret.statistics.intervals import Evidence, all_columns, nested, tabulate
from clipret.statistics.significance import INTERVALS, estimate, intervals_of

# Scores of a gallery that take so long that progress is shown: a quarter of COCO's 5,000 x 25,010.
_LONG = 1 << 25


def evaluate(config: EvalConfig, *, on_progress: ProgressCallback = silent) -> dict:
    """Every metric of metrics.py by one or more protocols, both directions, zero-shot beside trained, with intervals.

    on_progress  called after each protocol, with phase "protocols", and while a large gallery is ranked

    Returns what metrics.json holds: format, cache, run and head (None for zero-shot alone), finished (whether the run's
    training had come to its end), and of the first protocol

        protocol   name, split, counts, tie rule, mAP's divisor, precision, digest of the queries and items, remarks
        leakage    None for zero-shot alone; else checked and trained_on, how many of its images the head was trained on
        copies     how many of its images equal images of train, byte for byte: split, images, copies, of; None of train
        results    {"zero-shot": {"t2i": {...}, "i2t": {...}}, "trained": {...}} as fractions, and between them
                   "wise-ft ALPHA" for each of config.wise_ft
        rsum       head -> sum of R@K over config.k and both directions
        intervals  None, or level, method, resamples, heads (as results, and "rsum", [low, high] in place of numbers, or
                   None: see significance.py) and gain, the same of trained less zero-shot, None without a trained head

    Of further protocols, the same in the list `also`; and `remarks`, where there are some on the head. It is written to
    config.out, or into the run's folder when there is one, and beside it the ranks (rankings.py).

    Raises RunError, CacheError, HeadError, UsageError, or LeakageError when a gallery holds images that the head was
    trained on and config.allow_leak is not set.
    """
    if config.out:
        check_place("out", config.out, suffixes=(".json",), own=runs.METRICS)
    if config.per_query:
        check_per_query_path(config.per_query)
    device = choose_device(config.device)
    source = find_source(cache=config.cache, head=config.head, zero_shot=config.zero_shot, runs_dir=config.runs_dir)
    cache = open_cache(source)
    heads, trained = load_heads(source, cache, alphas=config.wise_ft), describe_trained(source)
    protocols = choose_protocols(cache, names=config.protocol, split=config.split)
    # All before the first measurement: a refusal must not cost the time of the others.
    leaks = [check_leakage(cache, protocol, source=source, allowed=config.allow_leak) for protocol in protocols]
    measured, ranked = [], []
    for protocol, leakage in zip(protocols, leaks, strict=True):
        found = _rank(cache, protocol, heads=heads, device=device, config=config, on_progress=on_progress)
        ranked.append(replace(found, leakage=leakage))
        about = {"leakage": leakage, "copies": copies_of_training(cache, protocol)}
        measured.append({"protocol": ranked[-1].protocol, **about, **_figures(ranked[-1], config)})
        on_progress(Progress("protocols", len(measured), len(protocols)))
    remarks = [remark for head in heads.values() for remark in head.remarks]
    report = {
        "format": runs.FORMAT,
        **describe_source(source, cache),
        **measured[0],
        **({"also": measured[1:]} if len(measured) > 1 else {}),
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
    cache: FeatureCache,
    protocol: Protocol,
    *,
    heads: dict[str, Head],
    device: str,
    config: EvalConfig,
    on_progress: ProgressCallback,
) -> ProtocolRankings:
    settings = {"block": config.block, "precision": config.precision, "top": config.top if config.per_query else 0}
    found = {name: {way: [] for way in DIRECTIONS} for name in heads}
    for fold in protocol.folds:
        gallery = Gallery.read(cache, fold)
        long = len(fold.image_rows) * len(fold.text_rows) > _LONG
        for name, head in heads.items():

            def tell(progress: Progress, what: str = f"ranking, {name}") -> None:
                on_progress(replace(progress, phase=what))

            ranks = gallery.rank(head.to(device), device=device, on_progress=tell if long else silent, **settings)
            for way, ranking in found[name].items():
                ranking.append(Ranking(ranks[way], gallery.query_images(ranks[way], direction=way)))
    described = describe_protocol(cache, protocol, precision=config.precision, k=config.cuts)
    return ProtocolRankings(
        described, {name: {way: tuple(folds) for way, folds in ways.items()} for name, ways in found.items()}
    )


def _figures(ranked: ProtocolRankings, config: EvalConfig) -> dict:
    """results, rsum and intervals of metrics.json; a metric is the mean over the protocol's galleries."""
    results = {}
    for head, directions in ranked.heads.items():
        results[head] = {}
        for way, folds in directions.items():
            found = [summarise(ranking.ranks, k=config.cuts) for ranking in folds]
            results[head][way] = {name: fmean(metrics[name] for metrics in found) for name in found[0]}
    sums = {head: rsum(directions, k=config.k) for head, directions in results.items()}
    return {"results": results, "rsum": sums, "intervals": _intervals(ranked, config) if config.resamples else None}


def _intervals(ranked: ProtocolRankings, config: EvalConfig) -> dict:
    heads, tables = list(ranked.heads), tabulate(list(ranked.heads.values()), k=config.cuts, families=METRICS)
    evidence = Evidence(tables, all_columns((*tables[0].names, RSUM)), k=config.k)
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
    # Flips of medians take longer than all the others, for no interval.
    bounded = replace(
        evidence, columns=tuple(column for column in evidence.columns if column[1] not in LOWER_IS_BETTER)
    )
    pair = heads.index("trained"), heads.index("zero-shot")
    (gain,) = flip_tests(bounded, [pair], flips=config.resamples, level=CompareConfig.level, seed=config.seed)
    intervals = dict.fromkeys(evidence.columns) | dict(zip(bounded.columns, intervals_of(gain), strict=True))
    return nested(intervals.values(), evidence.columns)


def _per_query(cache: FeatureCache, measured: Iterable[tuple[Protocol, ProtocolRankings]]) -> Iterator:
    for protocol, ranked in measured:
        for head, directions in ranked.heads.items():
            for way, folds in directions.items():
                for number, (fold, ranking) in enumerate(zip(protocol.folds, folds, strict=True)):
                    names = {"protocol": protocol.name, "direction": way, "head": head}
                    yield per_query_table(cache, fold, number, ranks=ranking.ranks, **names)
