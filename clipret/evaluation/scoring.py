"""Heads by another scoring than cosine: their figures, beside those by cosine, and the intervals of the differences."""

from dataclasses import replace

import numpy as np

from clipret.config import CompareConfig, EvalConfig
from clipret.config.choices import COSINE
from clipret.evaluation.inputs import Inputs
from clipret.machine.progress import ProgressCallback
from clipret.protocols.protocol import Protocol
from clipret.retrieval.banks import open_bank
from clipret.retrieval.metrics import rsum
from clipret.retrieval.scorers import Scorer, choose
from clipret.statistics.flips import flip_tests
from clipret.statistics.intervals import Evidence, nested
from clipret.statistics.significance import estimate, intervals_of


def make_scorers(
    inputs: Inputs, protocols: list[Protocol], *, config: EvalConfig, on_progress: ProgressCallback
) -> dict[str, Scorer]:
    """Name of head -> its scorer, with parameters that are chosen on val; none for cosine.

    No image of any of the protocols is in the bank, or in what is chosen on, unless the protocols are on val.

    Raises UsageError without images of train or of val, CacheError when a feature is not finite.
    """
    if config.scoring == COSINE:
        return {}
    measured = np.unique(np.concatenate([protocol.image_rows for protocol in protocols]))
    tuned = all(protocol.split == "val" for protocol in protocols)
    bank, val = open_bank(inputs.cache, measured=measured, tuned=tuned, scoring=config.scoring)
    settings = {"device": inputs.device, "block": config.block, "precision": config.precision}
    return {
        name: choose(head, name, scoring=config.scoring, bank=bank, val=val, on_progress=on_progress, **settings)
        for name, head in inputs.heads.items()
    }


def scoring_figures(
    figures: dict[str, dict], evidence: Evidence, *, scorers: dict[str, Scorer], config: EvalConfig
) -> dict:
    """What metrics.json has of the scoring that was asked for, beside cosine.

    figures   name of ranks -> direction -> metric -> value, of the heads by cosine and by the scoring
    evidence  of all of these, in this order
    scorers   name of head -> its scorer; not empty

    Returns name, of the scoring; bank: split, images and captions; parameters and val: head -> direction -> as in
    Scorer; results and rsum: head -> as in metrics.json; intervals: None, or heads (as results) and gain: head -> the
    intervals of the scoring less cosine, from the paired test, in the same form.
    """
    names, bank = list(figures), next(iter(scorers.values())).bank
    results = {head: figures[scorer.name] for head, scorer in scorers.items()}
    intervals = None
    if config.resamples:
        pairs = [(names.index(scorer.name), names.index(head)) for head, scorer in scorers.items()]
        intervals = {
            "heads": {head: interval(evidence, place) for head, (place, _) in zip(scorers, pairs, strict=True)},
            "gain": dict(zip(scorers, gains(evidence, pairs, config=config), strict=True)),
        }
    return {
        "name": config.scoring,
        "bank": {"split": "train", "images": len(bank.rows["image"]), "captions": len(bank.rows["text"])},
        "parameters": {head: scorer.parameters for head, scorer in scorers.items()},
        "val": {head: scorer.val for head, scorer in scorers.items()},
        "results": results,
        "rsum": {head: rsum(directions, k=config.k) for head, directions in results.items()},
        "intervals": intervals,
    }


def interval(evidence: Evidence, place: int) -> dict:
    """[low, high] of each column of one of the heads, by direction and metric; None where there is none."""
    return nested(intervals_of(estimate(evidence, (place,), level=CompareConfig.level)), evidence.columns)


def gains(evidence: Evidence, pairs: list[tuple[int, int]], *, config: EvalConfig) -> list[dict]:
    """For each pair of heads, [low, high] of the first less the second, as `interval` returns them."""
    # The gain has no interval for unbounded metrics, and flips of medians take longer than everything else.
    places = np.flatnonzero(np.isfinite(evidence.limits))
    bounded = replace(evidence, columns=tuple(evidence.columns[place] for place in places))
    tests = flip_tests(bounded, pairs, flips=config.resamples, level=CompareConfig.level, seed=config.seed)
    none = dict.fromkeys(evidence.columns)
    return [
        nested((none | dict(zip(bounded.columns, intervals_of(test), strict=True))).values(), evidence.columns)
        for test in tests
    ]
