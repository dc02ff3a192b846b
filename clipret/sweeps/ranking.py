"""Results of runs -> the leaderboard: means and standard deviations over seeds."""

import math
from collections import Counter
from statistics import fmean, stdev

from clipret.config import DIRECTIONS
from clipret.retrieval.metrics import rsum
from clipret.sweeps.folder import Sweep
from clipret.sweeps.forms import CUTS


def spread(values: list[float]) -> dict[str, float | None]:
    """mean, and std: the sample standard deviation (divisor n - 1), None for a single value."""
    return {"mean": fmean(values), "std": stdev(values) if len(values) > 1 else None}


def spreads(sweep: Sweep, results: dict[str, dict]) -> list[dict | None]:
    """For each configuration, mean and std of val_rsum over its seeds; None until all of its runs are done."""
    rows = []
    for place in range(len(sweep.configurations)):
        done = [results[config.name] for config in sweep.of(place) if config.name in results]
        whole = len(done) == len(sweep.config.seeds)
        rows.append(spread([result["val_rsum"] for result in done]) if whole else None)
    return rows


def leaderboard(sweep: Sweep, results: dict[str, dict]) -> list[dict]:
    """The configurations, best first by mean validation rsum (from 0 to 6) over their seeds.

    results  name -> the result of training, for the runs that did not fail

    Configurations with a failed run come after all others, however good their other runs are: a setting that fails with
    one seed in three is not reliable. Ties keep the order of the grid. Each entry has number (from 1, in the grid),
    settings, seeds, runs (paths, one per seed), val_rsum (mean and std over the runs that did not fail; None when all
    did), failed (seed -> why) and test (None).
    """
    entries = []
    for place, configuration in enumerate(sweep.configurations):
        trainings = sweep.of(place)
        values = [results[config.name]["val_rsum"] for config in trainings if config.name in results]
        entries.append(
            {
                "number": place + 1,
                "settings": sweep.settings(configuration),
                "seeds": [config.seed for config in trainings],
                "runs": [str(sweep.path / config.name) for config in trainings],
                "val_rsum": spread(values) if values else None,
                "failed": {
                    str(config.seed): sweep.failed[config.name] for config in trainings if config.name in sweep.failed
                },
                "test": None,
            }
        )
    return sorted(entries, key=_place)


def _place(entry: dict) -> tuple[bool, float]:
    return bool(entry["failed"]), -entry["val_rsum"]["mean"] if entry["val_rsum"] else math.inf


def measured_figures(reports: list[dict], *, head: str) -> dict:
    """Mean and std over runs of R@1, R@5 and R@10 of both directions, as fractions, and of their sum, rsum.

    reports  the result of evaluate for each run
    head     trained, or the name of the baseline
    """
    results = [report["results"][head] for report in reports]
    figures = {
        direction: {cut: spread([metrics[direction][cut] for metrics in results]) for cut in CUTS}
        for direction in DIRECTIONS
    }
    return {**figures, "rsum": spread([rsum(metrics) for metrics in results])}


def remarks(sweep: Sweep, results: dict[str, dict]) -> list[str]:
    """Remarks on the runs for the user, without duplicates."""
    counts = Counter(remark for result in results.values() for remark in result["remarks"])
    lines = []
    for remark, count in counts.items():
        # Early stopping is expected when patience was given; sweep.csv has the epochs.
        if not remark.startswith("stopped early"):
            lines.append(remark if count == len(sweep.trainings) else f"{remark} (in {count:,} runs)")
    if sweep.failed:
        name, error = next(iter(sweep.failed.items()))
        lines.append(f"{len(sweep.failed):,} of {len(sweep.trainings):,} runs failed, first {name}: {error}")
    return [remark.removesuffix(".") for remark in lines]
