"""Trainings of the same settings with several seeds, epoch by epoch."""

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

from clipret import runs
from clipret.config.training import PLACES, in_use
from clipret.errors import RunError

_APART = {*PLACES, "seed"}


def groups_of_seeds(folders: Sequence[Path]) -> list[list[Path]]:
    """The runs among these that differ in nothing but their seed, group by group; runs that stand alone are in none.

    Of two runs with the same seed the first is taken. Raises RunError for what is no run.
    """
    groups: dict[tuple, dict[int, Path]] = {}
    for folder in folders:
        record = runs.read_config(folder)
        # A soup is of several trainings.
        if "soup" not in record:
            groups.setdefault(_settings(record), {}).setdefault(record["config"].get("seed", 0), folder)
    return [list(of_seeds.values()) for of_seeds in groups.values() if len(of_seeds) > 1]


def _settings(record: dict) -> tuple:
    config = record["config"]
    used = {name: str(value) for name, value in config.items() if name not in _APART and in_use(config, name)}
    own = {what: code["sha256"] for what, code in record.get("code", {}).items()}
    return (record["cache"]["fingerprint"], *sorted((used | own).items()))


def seed_curves(folders: list[Path]) -> dict | None:
    """The mean and the ends of each number of the history over runs, as far as all of them went.

    Returns runs, their names, and columns: name -> epoch, mean, low and high, each a list; None where fewer than two
    have a history, or they share no epoch.
    """
    histories = {}
    for folder in folders:
        try:
            histories[folder.name] = runs.read_history(folder)
        except RunError:
            continue
    epochs = min(map(len, histories.values()), default=0)
    if len(histories) < 2 or not epochs:
        return None
    columns = {}
    for name in next(iter(histories.values()))[0]:
        values = [[history[epoch].get(name) for history in histories.values()] for epoch in range(epochs)]
        whole = [epoch for epoch, of_epoch in enumerate(values) if None not in of_epoch]
        if name != "epoch" and whole:
            columns[name] = {
                "epoch": whole,
                "mean": [fmean(values[epoch]) for epoch in whole],
                "low": [min(values[epoch]) for epoch in whole],
                "high": [max(values[epoch]) for epoch in whole],
            }
    return {"runs": list(histories), "columns": columns}
