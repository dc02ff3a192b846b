"""Stage 2: ranks of several heads -> tests of which is better. No features, no head, no GPU needed."""

from itertools import combinations
from math import ceil, isnan

import numpy as np

from clipret.config import DIRECTIONS
from clipret.config.choices import COSINE
from clipret.config.comparison import A_BETTER, B_BETTER, BASELINES, MOST_FLIPS, NO_TEST, NOT_SHOWN, CompareConfig
from clipret.errors import UsageError
from clipret.evaluation.comparison.contenders import Contender, choose_protocol, read_contenders
from clipret.evaluation.comparison.groups import Group, make_groups
from clipret.machine.progress import Progress, ProgressCallback, silent
from clipret.metrics import is_lower_better
from clipret.runs import check_place
from clipret.statistics.flips import flip_tests
from clipret.statistics.intervals import Evidence, all_columns, nested, tabulate
from clipret.statistics.significance import Estimate, Heads, contrast, estimate, holm, intervals_of


def compare(config: CompareConfig, *, on_progress: ProgressCallback = silent) -> dict:
    """Compare heads that were evaluated on the same queries and galleries: metrics, intervals, tests of differences.

    Runs with the same settings except the seed form a group, which stands for these settings; significance.py describes
    what intervals and p-values then cover. Holm's correction is over all tests shown: pairs of groups x metrics x
    directions.

    on_progress  called after each block of flips, with phase "flips"

    Returns
        protocol   as in metrics.json, with its digest
        groups     [{"name", "label", "runs", "seeds", "model", "values", "intervals", "spread"}]; values are
                   {"t2i": {"R@1": ...}, "i2t": {...}, "rsum": ...} of the metrics shown, as fractions; intervals the
                   same with [low, high] or None; spread the same with sample standard deviations over seeds, None for a
                   single head
        pairs      [{"a", "b", "metric", "direction", "difference", "interval", "p", "p_holm", "verdict"}]: names of
                   groups; difference a - b; direction is None for rsum; verdict "A better", "B better", "no difference
                   shown" or "no test"; interval, p and p_holm may be None
        metrics, k, level, alpha, family (number of tests), flips, seed
        remarks    caveats

    Raises UsageError when the runs cannot be compared, and RunError when one cannot be read.
    """
    if config.out:
        check_place("out", config.out)
    contenders = read_contenders(config.runs)
    protocol = choose_protocol(contenders, config.protocol)
    groups = make_groups(contenders)
    every = [contender for group in groups for contender in group.members]
    ranked = [contender.ranks_by(protocol) for contender in every]
    tables = tabulate(ranked, k=config.cuts, families=config.families)
    evidence, heads = Evidence(tables, all_columns(config.columns), k=config.k), _places(groups)
    described = [_describe(group, places, evidence, config) for group, places in zip(groups, heads, strict=True)]
    pairs = list(combinations(range(len(groups)), 2))
    contrasts, flips = _contrasts([(heads[a], heads[b]) for a, b in pairs], evidence, config, on_progress=on_progress)
    description = every[0].ranked(protocol).protocol
    return {
        "protocol": description,
        "groups": described,
        "pairs": _pairs([(described[a], described[b]) for a, b in pairs], contrasts, evidence, alpha=config.alpha),
        "metrics": list(config.columns),
        "k": list(config.k),
        "level": config.level,
        "alpha": config.alpha,
        "family": int(sum((~np.isnan(tested.p)).sum() for tested in contrasts)),
        "flips": flips,
        "seed": config.seed,
        "remarks": _remarks(every, description),
    }


def _contrasts(
    pairs: list[tuple[Heads, Heads]], evidence: Evidence, config: CompareConfig, *, on_progress: ProgressCallback
) -> tuple[list[Estimate], int | None]:
    """The differences of all pairs, and the number of flips used for pairs of single heads."""
    alone = [pair for pair in pairs if all(len(side.members) == 1 for side in pair)]
    flips = _flips(len(pairs) * len(evidence.columns), config) if alone else None

    def tell(done: int) -> None:
        on_progress(Progress("flips", done, flips))

    flipped = iter(())
    if alone:
        members = [(first.members[0], second.members[0]) for first, second in alone]
        settings = {"flips": flips, "level": config.level, "seed": config.seed}
        flipped = iter(flip_tests(evidence, members, **settings, on_block=tell))
    return [next(flipped) if pair in alone else contrast(evidence, *pair, level=config.level) for pair in pairs], flips


def _flips(tests: int, config: CompareConfig) -> int:
    """Enough flips for the smallest possible p-value to stay well below alpha after correction. Raises UsageError."""
    needed = 10 * tests / config.alpha
    if needed > MOST_FLIPS:
        raise UsageError(
            f"--alpha {config.alpha:g} over {tests:,} tests needs {needed:,.0f} flips, more than {MOST_FLIPS:,}; give "
            f"a larger --alpha, fewer --metrics, or fewer runs."
        )
    return max(config.permutations, ceil(needed))


def _places(groups: list[Group]) -> list[Heads]:
    """The indices of each group's heads among all heads. Zero-shot does not vary with the seed."""
    ends = np.cumsum([len(group.members) for group in groups]).tolist()
    return [
        Heads(tuple(range(end - len(group.members), end)), varies=group.members[0].head not in BASELINES)
        for end, group in zip(ends, groups, strict=True)
    ]


def _describe(group: Group, heads: Heads, evidence: Evidence, config: CompareConfig) -> dict:
    estimated, columns = estimate(evidence, heads.members, level=config.level), evidence.columns
    return {
        "name": group.members[0].word,
        "label": group.label,
        "runs": [member.word for member in group.members],
        "seeds": [member.seed for member in group.members if member.seed is not None],
        "model": group.members[0].rankings.cache["model"],
        "values": nested(estimated.value.tolist(), columns),
        "intervals": nested(intervals_of(estimated), columns),
        "spread": None if estimated.spread is None else nested(estimated.spread.tolist(), columns),
    }


def _pairs(sides: list[tuple[dict, dict]], contrasts: list[Estimate], evidence: Evidence, *, alpha: float) -> list:
    p_values = np.stack([tested.p for tested in contrasts])
    adjusted = np.full(p_values.shape, np.nan)
    adjusted[~np.isnan(p_values)] = holm(p_values[~np.isnan(p_values)])
    rows = []
    for (first, second), tested, corrected in zip(sides, contrasts, adjusted.tolist(), strict=True):
        figures = zip(tested.value.tolist(), intervals_of(tested), tested.p.tolist(), corrected, strict=True)
        for (direction, name), (difference, interval, p, p_holm) in zip(evidence.columns, figures, strict=True):
            rows.append(
                {
                    "a": first["name"],
                    "b": second["name"],
                    "metric": name,
                    "direction": None if direction is None else DIRECTIONS[direction],
                    "difference": difference,
                    "interval": interval,
                    "p": None if isnan(p) else p,
                    "p_holm": None if isnan(p) else p_holm,
                    "verdict": _verdict(name, difference, p_holm, alpha=alpha),
                }
            )
    return rows


def _verdict(metric: str, difference: float, p_holm: float, *, alpha: float) -> str:
    if isnan(p_holm):
        return NO_TEST
    better = difference < 0 if is_lower_better(metric) else difference > 0
    return NOT_SHOWN if p_holm > alpha else A_BETTER if better else B_BETTER


def _remarks(every: list[Contender], protocol: dict) -> list[str]:
    remarks = _scoring_remarks(every)
    for contender in every:
        trained = contender.rankings.trained
        if contender.head not in BASELINES and trained.finished is False:
            remarks.append(f"{contender.word} was unfinished when it was measured")
        leakage = contender.ranked(protocol["name"]).leakage if contender.head not in BASELINES else None
        if leakage and leakage["trained_on"]:
            remarks.append(
                f"LEAK: {contender.word} was trained on {leakage['trained_on']:,} of these {leakage['images']:,} images"
            )
        elif contender.head not in BASELINES and not (leakage and leakage["checked"]):
            remarks.append(f"whether {contender.word} was trained on these images was not checked")
    if protocol["remarks"]:
        remarks.append(f"not comparable with published figures: {'; '.join(protocol['remarks'])}")
    return remarks


def _scoring_remarks(every: list[Contender]) -> list[str]:
    """Which heads are measured by another scoring than cosine; none where none is."""
    by_scoring: dict[str, list[str]] = {}
    for contender in every:
        by_scoring.setdefault(contender.scoring, []).append(contender.word)
    if list(by_scoring) == [COSINE]:
        return []
    if len(by_scoring) == 1:
        return [f"all by {every[0].scoring}, which no figure by cosine is comparable with"]
    parts = [f"{', '.join(words)} by {scoring}" for scoring, words in by_scoring.items()]
    return [f"scored in different ways: {'; '.join(parts)}"]
