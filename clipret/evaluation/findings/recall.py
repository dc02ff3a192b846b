"""R@K for many K, and how ranks moved from the baseline to the trained head."""

from collections import Counter

import numpy as np

from clipret.evaluation.findings.ranked import Ranked
from clipret.evaluation.scoring import interval
from clipret.retrieval.ranks import Ranks
from clipret.statistics.intervals import Evidence, all_columns, tabulate

CUTS = (1, 2, 3, 4, 5, 6, 8, 10, 13, 16, 20, 25, 32, 40, 50, 63, 80, 100)
# Cells of the plot of ranks for each doubling of a rank.
_CELLS = 4


def recall_curves(of_folds: dict[str, dict[str, tuple[Ranks, ...]]]) -> dict:
    """k, the cuts, and heads: name -> direction -> values, low and high, the ends of the 95 % interval, of each R@K.

    They are those of eval, by its intervals.
    """
    tables = tabulate(list(of_folds.values()), k=CUTS, families=("R",))
    evidence = Evidence(tables, all_columns(tables[0].names), k=CUTS)
    curves = {}
    for place, (name, figures) in enumerate(zip(of_folds, evidence.figures(), strict=True)):
        intervals = interval(evidence, place)
        curves[name] = {
            direction: {
                "values": [values[f"R@{k}"] for k in CUTS],
                "low": [intervals[direction][f"R@{k}"][0] for k in CUTS],
                "high": [intervals[direction][f"R@{k}"][1] for k in CUTS],
            }
            for direction, values in figures.items()
        }
    return {"k": list(CUTS), "heads": curves}


def rank_changes(ranked: Ranked, direction: str) -> dict:
    """Ranks of the first matching item before and after, of the queries of all galleries.

    Returns won, lost and same (numbers of queries), gallery, and cells: [before, after, queries], ranks in steps of a
    quarter of a doubling.
    """
    before, after = (
        np.concatenate([of_fold.first for of_fold in ranked.of_folds[head][direction]])
        for head in (ranked.heads[0], ranked.heads[-1])
    )
    steps = [np.round(np.log2(ranks) * _CELLS).astype(int).tolist() for ranks in (before, after)]
    cells = Counter(zip(*steps, strict=True))
    return {
        "won": int(np.sum(after < before)),
        "lost": int(np.sum(after > before)),
        "same": int(np.sum(after == before)),
        "gallery": ranked.ranks(ranked.heads[0], direction).gallery,
        "cells": [[2 ** (x / _CELLS), 2 ** (y / _CELLS), count] for (x, y), count in sorted(cells.items())],
    }
