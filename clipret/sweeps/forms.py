"""The form of sweep.json: every field that is needed to resume a sweep or to show it again."""

from pathlib import Path
from typing import Any

from clipret.config import DIRECTIONS
from clipret.config.comparison import baseline_of, has_baseline
from clipret.config.sweeps import SWEPT
from clipret.machine.records import AtLeast, Each, Maybe, RecordError

CUTS = ("R@1", "R@5", "R@10")
_SPREAD = {"mean": float, "std": (float, None)}
_FIGURES = {**{direction: dict.fromkeys(CUTS, _SPREAD) for direction in DIRECTIONS}, "rsum": _SPREAD}
_ENTRY = {
    "number": AtLeast(1),
    "settings": Each(Any),
    "seeds": [AtLeast(0)],
    "runs": [str],
    "val_rsum": (_SPREAD, None),
    "failed": Each(str),
    "test": (_FIGURES, None),
}
_BASELINE = {"val_rsum": float, "test": (_FIGURES, None)}
_SOUP = {
    "run": str,
    "runs": [str],
    "heads": AtLeast(1),
    "unlike": Each(AtLeast(1)),
    "val_rsum": float,
    "best_val_rsum": float,
    "test": (_FIGURES, None),
}
_RESULT = {
    "sweep": str,
    "cache": str,
    "runs": AtLeast(1),
    "failed": AtLeast(0),
    "varied": [str],
    "fixed": Each(Any),
    "configurations": [_ENTRY],
    "chosen": {**_ENTRY, "command": str},
    "zero_shot": Maybe(_BASELINE),
    "closed_form": Maybe(_BASELINE),
    "soup": Maybe(_SOUP),
    "protocol": ({"name": str, "split": str}, None),
    "test_all": bool,
    "remarks": [str],
    "seconds": float,
}
FORM = {
    "cache": {"path": str, "fingerprint": str},
    "config": {"seeds": [AtLeast(0)], "axes": Each(Any)},
    "configurations": [Each(Any)],
    "failed": Each(str),
    "seconds": float,
    "result": (_RESULT, None),
    "code": Maybe(Each({"path": str, "sha256": str})),
}


def require_agreement(sweep) -> None:
    """Raise RecordError unless `failed` and `result` are consistent with the sweep's runs."""
    names = {config.name for config in sweep.trainings}
    if strangers := sorted(set(sweep.failed) - names):
        raise RecordError(f"failed has {strangers[0]}, which is no run of it")
    if sweep.result is None:
        return
    result, entries = sweep.result, sweep.result["configurations"]
    for entry in (*entries, result["chosen"]):
        _require_entry(entry, sweep)
    numbers = sorted(entry["number"] for entry in entries)
    if numbers != list(range(1, len(sweep.configurations) + 1)):
        raise RecordError("result.configurations are not its configurations, each once")
    if result["varied"] != sweep.varied or not set(result["fixed"]) <= set(SWEPT):
        raise RecordError("result.varied or result.fixed are not the settings of it")
    if len(result["chosen"]["failed"]) >= len(result["chosen"]["seeds"]):
        raise RecordError("result.chosen is a configuration of which every run failed")
    _require_figures(result)
    if "soup" in result and (not result["soup"]["runs"] or not set(result["soup"]["runs"]) <= names):
        raise RecordError("result.soup has no runs, or others than those of it")


def _require_figures(result: dict) -> None:
    if not has_baseline(result):
        raise RecordError("result has neither zero_shot nor closed_form")
    for part in ("chosen", "soup"):
        if result.get(part, {}).get("test") and not (baseline_of(result)[1]["test"] and result["protocol"]):
            raise RecordError(f"result.{part} has test figures, and its baseline or result.protocol none")


def _require_entry(entry: dict, sweep) -> None:
    place = entry["number"] - 1
    if place >= len(sweep.configurations):
        raise RecordError(f"result has configuration {entry['number']:,} of {len(sweep.configurations):,}")
    trainings = sweep.of(place)
    if [Path(run).name for run in entry["runs"]] != [config.name for config in trainings]:
        raise RecordError(f"result has other runs of configuration {entry['number']:,} than it")
    if entry["seeds"] != [config.seed for config in trainings] or list(entry["settings"]) != sweep.varied:
        raise RecordError(f"result has other seeds or settings of configuration {entry['number']:,} than it")
