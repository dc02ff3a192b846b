"""Stage 2: features.h5 and a head -> metrics.json. No image, no CLIP, no GPU needed."""

from collections.abc import Iterable, Iterator

from clipret import runs
from clipret.cache import FeatureCache
from clipret.config import METRICS, CompareConfig, EvalConfig
from clipret.config.checks import one_of
from clipret.config.choices import COSINE
from clipret.evaluation.inputs import (
    Inputs,
    Ranking,
    check_leakage,
    choose_protocols,
    describe_protocol,
    describe_source,
    describe_trained,
    open_inputs,
)
from clipret.evaluation.languages import language_means
from clipret.evaluation.per_query import check_per_query_path, per_query_table, write_per_query
from clipret.evaluation.scoring import gains, interval, make_scorers, scoring_figures
from clipret.machine.progress import Progress, ProgressCallback, silent
from clipret.metrics import RSUM
from clipret.protocols.leakage import copies_of_training
from clipret.protocols.protocol import Protocol
from clipret.retrieval.gallery import rank_folds
from clipret.retrieval.metrics import rsum
from clipret.retrieval.ranks import Ranks
from clipret.retrieval.ranks_file import ProtocolRankings, Rankings, rankings_path, write_rankings
from clipret.retrieval.scorers import Scorer
from clipret.retrieval.scorings import SCORINGS
from clipret.runs import check_place, written
from clipret.statistics.intervals import Evidence, all_columns, tabulate
from clipret.statistics.significance import INTERVALS

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
        scoring    of another scoring than cosine: the same heads by it, see scoring.scoring_figures. All of the above
                   is by cosine

    Further protocols are in the list `also`, in the same form; each language of a multilingual cache is a protocol, and
    `languages` is what language_means returns for several; `remarks` on the head, if any. The result is written to
    config.out or the run's folder if there is one, with the ranks next to it (ranks_file.py).

    Raises RunError, CacheError, HeadError, UsageError, or LeakageError when a gallery holds images that the head was
    trained on and config.allow_leak is not set.
    """
    one_of("scoring", config.scoring, allowed=(COSINE, *SCORINGS))
    if config.out:
        check_place("out", config.out, suffixes=(".json",), own=runs.METRICS)
    if config.per_query:
        check_per_query_path(config.per_query)
    return measure(config, open_inputs(config), on_progress=on_progress)


def measure(
    config: EvalConfig, inputs: Inputs, *, ranking: Ranking | None = None, on_progress: ProgressCallback = silent
) -> dict:
    """As evaluate, of inputs that are open already.

    ranking  ranks by a protocol, as rank_folds returns them; None: they are made here
    """
    source, cache, heads = inputs.source, inputs.cache, inputs.heads
    trained = describe_trained(source)
    protocols = choose_protocols(cache, names=config.protocol, split=config.split, languages=config.language)
    # Checked for all protocols first, so that an error does not waste the time of a measurement.
    leaks = [check_leakage(cache, protocol, source=source, allowed=config.allow_leak) for protocol in protocols]
    scorers = make_scorers(inputs, protocols, config=config, on_progress=on_progress)
    measured, ranked = [], []
    for protocol, leakage in zip(protocols, leaks, strict=True):
        if ranking:
            ranks = ranking(protocol)
        else:
            ranks = _rank(inputs, protocol, scorers=scorers, config=config, on_progress=on_progress)
        description = describe_protocol(cache, protocol, precision=config.precision, k=config.cuts)
        ranked.append(ProtocolRankings(description, ranks, leakage))
        about = {"leakage": leakage, "copies": copies_of_training(cache, protocol)}
        measured.append({"protocol": description, **about, **_figures(ranked[-1], config, scorers=scorers)})
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
    inputs: Inputs,
    protocol: Protocol,
    *,
    scorers: dict[str, Scorer],
    config: EvalConfig,
    on_progress: ProgressCallback,
) -> dict[str, dict[str, tuple[Ranks, ...]]]:
    long = any(len(fold.image_rows) * len(fold.text_rows) > _LONG for fold in protocol.folds)
    return rank_folds(
        inputs.cache,
        protocol.folds,
        heads=inputs.heads,
        device=inputs.device,
        scorers=scorers,
        on_progress=on_progress if long else silent,
        block=config.block,
        precision=config.precision,
        top=config.top if config.per_query else 0,
    )


def _figures(ranked: ProtocolRankings, config: EvalConfig, *, scorers: dict[str, Scorer]) -> dict:
    """results, rsum and intervals of metrics.json, and scoring if there is one."""
    tables = tabulate(list(ranked.heads.values()), k=config.cuts, families=METRICS)
    evidence = Evidence(tables, all_columns((*tables[0].names, RSUM)), k=config.k)
    figures = dict(zip(ranked.heads, evidence.figures(), strict=True))
    scored = {scorer.name for scorer in scorers.values()}
    results = {head: of_head for head, of_head in figures.items() if head not in scored}
    names = list(ranked.heads)
    return {
        "results": results,
        "rsum": {head: rsum(directions, k=config.k) for head, directions in results.items()},
        "intervals": _intervals(evidence, names, heads=list(results), config=config) if config.resamples else None,
        **({"scoring": scoring_figures(figures, evidence, scorers=scorers, config=config)} if scorers else {}),
    }


def _intervals(evidence: Evidence, names: list[str], *, heads: list[str], config: EvalConfig) -> dict:
    gain = None
    if "trained" in heads:
        (gain,) = gains(evidence, [(names.index("trained"), 0)], config=config)
    return {
        "level": CompareConfig.level,
        "method": INTERVALS,
        "resamples": config.resamples,
        "heads": {head: interval(evidence, names.index(head)) for head in heads},
        "gain": gain,
    }


def _per_query(cache: FeatureCache, measured: Iterable[tuple[Protocol, ProtocolRankings]]) -> Iterator:
    for protocol, ranked in measured:
        for head, directions in ranked.heads.items():
            for direction, folds in directions.items():
                for number, (fold, ranks) in enumerate(zip(protocol.folds, folds, strict=True)):
                    names = {"protocol": protocol.name, "direction": direction, "head": head}
                    yield per_query_table(cache, fold, number, ranks=ranks, **names)
