"""Stage 2: ranks of several heads -> which of them is better, and how sure that is. No features, no head, no GPU."""

from dataclasses import replace
from itertools import combinations
from math import ceil

import numpy as np

from clipret.config import DIRECTIONS
from clipret.config.columns import RSUM
from clipret.config.comparison import (
    A_BETTER,
    B_BETTER,
    LOWER_IS_BETTER,
    MOST_FLIPS,
    NOT_SHOWN,
    ZERO_SHOT,
    CompareConfig,
)
from clipret.contenders import Contender, choose_protocol, read_contenders
from clipret.errors import UsageError
from clipret.groups import Group, make_groups
from clipret.intervals import FoldTable, resample, tabulate
from clipret.outputs import check_place
from clipret.progress import Progress, ProgressCallback, silent
from clipret.significance import Estimate, Evidence, contrast, estimate, flip_p_values, holm, pick


def compare(config: CompareConfig, *, on_progress: ProgressCallback = silent) -> dict:
    """Compare heads that were measured on the same questions: figures, intervals, and a test of every difference.

    Runs whose settings are equal but for the seed are one group, and stand for these settings; significance.py says
    what intervals and p-values then cover. The family of tests over which Holm's correction goes is all that is shown:
    pairs of groups x metrics x directions.

    on_progress  called after each block of flips, with phase "flips"

    Returns
        protocol   as metrics.json describes it, with its digest
        groups     [{"name", "label", "runs", "seeds", "model", "values", "intervals", "spread"}]; values are
                   {"t2i": {"R@1": ...}, "i2t": {...}, "rsum": ...} of the metrics shown, fractions; intervals the same
                   with [low, high]; spread the same, sample standard deviations over seeds, None for a head alone
        pairs      [{"a", "b", "metric", "direction", "difference", "interval", "p", "p_holm", "verdict"}]: names of
                   groups; a - b; direction is None for rsum; verdict "A better", "B better" or "no difference shown"
        metrics, k, level, alpha, family (number of tests), resamples, flips, seed
        remarks    what the figures must not be taken for, if anything

    Raises UsageError when these cannot be compared, and RunError when there is nothing to compare or to read.
    """
    if config.out:
        check_place("out", config.out)
    contenders = read_contenders(config.runs)
    protocol = choose_protocol(contenders, config.protocol)
    groups = make_groups(contenders)
    columns, members = _columns(config), _places(groups)
    every = [each for group in groups for each in group.members]
    heads = [each.ranked(protocol).heads[each.head] for each in every]
    tables = tabulate(heads, k=config.cuts, families=config.families)
    evidence = _evidence(tables, columns=columns, config=config)
    estimates = [estimate(evidence, places, level=config.level) for places in members]
    told = [_group(each, found, columns=columns, config=config) for each, found in zip(groups, estimates, strict=True)]
    pairs = list(combinations(range(len(groups)), 2))
    contrasts = [contrast(evidence, members[a], members[b], level=config.level) for a, b in pairs]
    flips = _add_flips(
        contrasts,
        {place: (members[a][0], members[b][0]) for place, (a, b) in enumerate(pairs) if contrasts[place].p is None},
        tables=tables,
        columns=columns,
        config=config,
        on_progress=on_progress,
    )
    description = every[0].ranked(protocol).protocol
    return {
        "protocol": description,
        "groups": told,
        "pairs": _pairs([(told[a], told[b]) for a, b in pairs], contrasts, columns=columns, alpha=config.alpha),
        "metrics": list(config.columns),
        "k": list(config.k),
        "level": config.level,
        "alpha": config.alpha,
        "family": len(pairs) * len(columns),
        "resamples": config.resamples,
        "flips": flips,
        "seed": config.seed,
        "remarks": _remarks(every, description),
    }


def _add_flips(
    contrasts: list[Estimate],
    alone: dict[int, tuple[int, int]],
    *,
    tables: list[FoldTable],
    columns: tuple,
    config: CompareConfig,
    on_progress: ProgressCallback,
) -> int | None:
    """Put the p-values of two heads alone where they are missing: place -> the two heads. Returns the flips made."""
    if not alone:
        return None
    flips = _flips(len(contrasts) * len(columns), config)

    def tell(done: int) -> None:
        on_progress(Progress("flips", done, flips))

    tested = flip_p_values(
        tables, list(alone.values()), columns=columns, k=config.k, flips=flips, seed=config.seed, on_block=tell
    )
    for place, p_values in zip(alone, tested, strict=True):
        contrasts[place] = replace(contrasts[place], p=p_values)
    return flips


def _flips(tests: int, config: CompareConfig) -> int:
    """Enough that the smallest p-value there is stays well below alpha after the correction. Raises UsageError."""
    needed = 10 * tests / config.alpha
    if needed > MOST_FLIPS:
        raise UsageError(
            f"--alpha {config.alpha:g} over {tests:,} tests needs {needed:,.0f} flips, more than {MOST_FLIPS:,}; give "
            f"a larger --alpha, fewer --metrics, or fewer runs."
        )
    return max(config.permutations, ceil(needed))


def _columns(config: CompareConfig) -> tuple[tuple[int | None, str], ...]:
    """(direction's place, metric) of every column: t2i, i2t, then rsum, whose place is None."""
    names = [name for name in config.columns if name != RSUM]
    columns = [(way, name) for way in range(len(DIRECTIONS)) for name in names]
    return (*columns, *(((None, RSUM),) if RSUM in config.columns else ()))


def _evidence(tables: list[FoldTable], *, columns: tuple, config: CompareConfig) -> Evidence:
    observed = sum(table.measure(np.ones((1, table.images))) for table in tables)[0] / len(tables)
    draws = resample(tables, resamples=config.resamples, seed=config.seed)
    names = tables[0].names
    points, draws = (pick(values, names, columns=columns, k=config.k) for values in (observed, draws))
    return Evidence(points, draws, images=sum(table.images for table in tables))


def _places(groups: list[Group]) -> list[tuple[int, ...]]:
    """Where each group's heads are among all."""
    ends = np.cumsum([len(group.members) for group in groups]).tolist()
    return [tuple(range(end - len(group.members), end)) for end, group in zip(ends, groups, strict=True)]


def _group(group: Group, found: Estimate, *, columns: tuple, config: CompareConfig) -> dict:
    lows, highs = zip(*(_range(name, config) for _, name in columns), strict=True)
    ends = zip(np.maximum(found.low, lows).tolist(), np.minimum(found.high, highs).tolist(), strict=True)
    return {
        "name": group.members[0].word,
        "label": group.label,
        "runs": [each.word for each in group.members],
        "seeds": [each.seed for each in group.members if each.seed is not None],
        "model": group.members[0].rankings.cache["model"],
        "values": _nested(found.value.tolist(), columns),
        "intervals": _nested([list(pair) for pair in ends], columns),
        "spread": None if found.spread is None else _nested(found.spread.tolist(), columns),
    }


def _range(name: str, config: CompareConfig) -> tuple[float, float]:
    """The values that a metric can have; an interval by Student's t knows nothing of them."""
    if name in LOWER_IS_BETTER:
        return 1.0, np.inf
    return 0.0, 2.0 * len(config.k) if name == RSUM else 1.0


def _nested(values: list, columns: tuple) -> dict:
    """{"t2i": {"R@1": ...}, "i2t": {...}, "rsum": ...} of a list over the columns."""
    nested: dict = {way: {} for way in DIRECTIONS}
    for (way, name), value in zip(columns, values, strict=True):
        (nested if way is None else nested[DIRECTIONS[way]])[name] = value
    return nested


def _pairs(sides: list[tuple[dict, dict]], contrasts: list[Estimate], *, columns: tuple, alpha: float) -> list[dict]:
    adjusted = holm(np.concatenate([found.p for found in contrasts])).reshape(len(sides), len(columns))
    told = []
    for (first, second), found, corrected in zip(sides, contrasts, adjusted, strict=True):
        for place, (way, name) in enumerate(columns):
            difference = float(found.value[place])
            better = difference < 0 if name in LOWER_IS_BETTER else difference > 0
            shown = corrected[place] <= alpha
            told.append(
                {
                    "a": first["name"],
                    "b": second["name"],
                    "metric": name,
                    "direction": None if way is None else DIRECTIONS[way],
                    "difference": difference,
                    "interval": [float(found.low[place]), float(found.high[place])],
                    "p": float(found.p[place]),
                    "p_holm": float(corrected[place]),
                    "verdict": (A_BETTER if better else B_BETTER) if shown else NOT_SHOWN,
                }
            )
    return told


def _remarks(every: list[Contender], protocol: dict) -> list[str]:
    remarks = []
    for each in every:
        trained = each.rankings.trained
        if each.head != ZERO_SHOT and trained.finished is False:
            remarks.append(f"{each.word} was unfinished when it was measured")
        leakage = each.ranked(protocol["name"]).leakage if each.head != ZERO_SHOT else None
        if leakage and leakage["trained_on"]:
            remarks.append(
                f"LEAK: {each.word} was trained on {leakage['trained_on']:,} of these {leakage['images']:,} images"
            )
        elif each.head != ZERO_SHOT and not (leakage and leakage["checked"]):
            remarks.append(f"whether {each.word} was trained on these images was not checked")
    if protocol["remarks"]:
        remarks.append(f"not comparable with published figures: {'; '.join(protocol['remarks'])}")
    return remarks
