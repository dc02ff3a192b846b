"""What the runs of a sweep say together: the effect of each setting, and runs that none beats in both directions."""

import math
from pathlib import Path
from statistics import fmean, stdev

from scipy.stats import t as student

from clipret import runs
from clipret.errors import RunError

_LEVEL = 0.95
_METRICS = {"t2i": "val_t2i_R@1", "i2t": "val_i2t_R@1"}


def find_effects(result: dict) -> list[dict]:
    """The effect of every value of every setting that a sweep varied, on val rsum.

    Of one seed the effect is the mean over the configurations with that value, less the mean over all; it is then
    averaged over seeds, with a 95 % interval of Student's t where there are several.

    result  what sweep returned

    Returns for each setting and value: setting, value, configurations, effect, low and high (None for a single seed).
    Runs that failed are left out.
    """
    by_seed = _values_by_seed(result)
    effects = []
    for name in result["varied"]:
        values = list(dict.fromkeys(str(entry["settings"][name]) for entry in result["configurations"]))
        for value in values:
            places = [
                place for place, entry in enumerate(result["configurations"]) if str(entry["settings"][name]) == value
            ]
            of_seeds = []
            for values_of in by_seed.values():
                with_it = [values_of[place] for place in places if place in values_of]
                if with_it:
                    of_seeds.append(fmean(with_it) - fmean(values_of.values()))
            if of_seeds:
                effects.append({"setting": name, "value": value, "configurations": len(places), **_mean(of_seeds)})
    return effects


def find_front(result: dict) -> list[dict]:
    """Every run whose history is at hand: run, name, t2i and i2t (val R@1 of the kept epoch), and best, whether no
    other run has more in one direction and as much in the other."""
    points = []
    for entry in result["configurations"]:
        for run in entry["runs"]:
            point = _point(Path(run))
            if point:
                points.append({"run": run, "name": Path(run).name, **point})
    for point in points:
        point["best"] = not any(
            other["t2i"] >= point["t2i"]
            and other["i2t"] >= point["i2t"]
            and (other["t2i"], other["i2t"]) != (point["t2i"], point["i2t"])
            for other in points
        )
    return points


def _values_by_seed(result: dict) -> dict[int, dict[int, float]]:
    """Seed -> place of the configuration -> val rsum of its run."""
    by_seed: dict[int, dict[int, float]] = {}
    for place, entry in enumerate(result["configurations"]):
        for run, seed in zip(entry["runs"], entry["seeds"], strict=True):
            record = runs.read_result(run) if str(seed) not in entry["failed"] else None
            if record is not None and record["val_rsum"] is not None:
                by_seed.setdefault(seed, {})[place] = record["val_rsum"]
    return by_seed


def _mean(values: list[float]) -> dict[str, float | None]:
    mean = fmean(values)
    if len(values) < 2:
        return {"effect": mean, "low": None, "high": None}
    reach = student.ppf((1 + _LEVEL) / 2, len(values) - 1) * stdev(values) / math.sqrt(len(values))
    return {"effect": mean, "low": mean - float(reach), "high": mean + float(reach)}


def _point(run: Path) -> dict[str, float] | None:
    record = runs.read_result(run)
    kept = record and record["kept_epoch"]
    try:
        history = runs.read_history(run)
    except RunError:
        return None
    row = next((row for row in history if row["epoch"] == kept), None)
    values = {direction: row.get(name) for direction, name in _METRICS.items()} if row else {}
    return values if values and None not in values.values() else None
