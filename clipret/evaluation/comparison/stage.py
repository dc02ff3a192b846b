"""Stage 2: ranks of several heads -> which of them is better, and how sure that is. No features, no head, no GPU."""

from itertools import combinations
from math import ceil, isnan

import numpy as np

from clipret.config import DIRECTIONS
from clipret.config.comparison import A_BETTER, B_BETTER, BASELINES, MOST_FLIPS, NO_TEST, NOT_SHOWN, CompareConfig
from clipret.errors import UsageError
from clipret.evaluation.comparison.contenders import Contender, choose_protocol, read_contenders
from clipret.evaluation.comparison.groups import Group, make_groups
from clipret.metrics import is_lower_better
from clipret.progress import Progress, ProgressCallback, silent
from clipret.runs import check_place
from clipret.statistics.flips import flip_tests
from clipret.statistics.intervals import Evidence, all_columns, nested, tabulate
from clipret.statistics.significance import Estimate, Heads, contrast, estimate, holm, intervals_of


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
                   with [low, high], None where there is none; spread the same, sample standard deviations over seeds,
                   None for a head alone
        pairs      [{"a", "b", "metric", "direction", "difference", "interval", "p", "p_holm", "verdict"}]: names of
                   groups; a - b; direction is None for rsum; verdict "A better", "B better", "no difference shown"
                   or "no test"; interval, p and p_holm are None where there is none
        metrics, k, level, alpha, family (number of tests), flips, seed
        remarks    what the figures must not be taken for, if anything

    Raises UsageError when these cannot be compared, and RunError when there is nothing to compare or to read.
    """
    if config.out:
        check_place("out", config.out)
    contenders = read_contenders(config.runs)
    protocol = choose_protocol(contenders, config.protocol)
    groups = make_groups(contenders)
    every = [contender for group in groups for contender in group.members]
    ranked = [contender.ranked(protocol).heads[contender.head] for contender in every]
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
    """The differences of all pairs, and the flips that were made for those of two heads alone."""
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
    """Enough that the smallest p-value there is stays well below alpha after the correction. Raises UsageError."""
    needed = 10 * tests / config.alpha
    if needed > MOST_FLIPS:
        raise UsageError(
            f"--alpha {config.alpha:g} over {tests:,} tests needs {needed:,.0f} flips, more than {MOST_FLIPS:,}; give "
            f"a larger --alpha, fewer --metrics, or fewer runs."
        )
    return max(config.permutations, ceil(needed))


def _places(groups: list[Group]) -> list[Heads]:
    """Where each group's heads are among all; of CLIP itself there is no other training."""
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
    remarks = []
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
