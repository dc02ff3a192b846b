"""Runs -> a page that says what was gained, what was lost, what fails and why: the function behind `clipret report`."""

import importlib
import shlex
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

from clipret import __version__
from clipret.config import ReportConfig
from clipret.errors import RunError
from clipret.evaluation.findings.seeds import groups_of_seeds, seed_curves
from clipret.evaluation.findings.stage import collect
from clipret.exports.packages import require_package
from clipret.machine.files import replaced
from clipret.machine.progress import ProgressCallback, silent
from clipret.reporting.pages import PARTS
from clipret.reporting.pages.chart import Chart
from clipret.reporting.pages.page import page
from clipret.reporting.pages.papers import write_charts, write_figures
from clipret.reporting.pages.pictures import Pictures
from clipret.reporting.pages.seeds import seed_charts, seed_part
from clipret.reporting.pages.sweeps import sweep_parts
from clipret.runs import check_place, is_sweep, written
from clipret.sweeps.folder import read_sweep

# Of the page, for what is no picture.
_TEXT_SHARE = 0.15


def report(config: ReportConfig, *, on_progress: ProgressCallback = silent) -> dict:
    """Write a report on runs: one HTML file that needs nothing else.

    on_progress  called after each run, with phase "runs"

    A sweep stands for its leaderboard, the effects of its settings, and its best run; runs that differ in their seeds
    alone are drawn together, too. Each run is measured as eval and failures do it, which writes their files. Pictures
    are those of the data set, where they are at hand; without them the report has the files' names.

    Returns out, bytes, runs, pictures, pictures_left_out, figures (files) and seconds. Raises as findings.stage.collect
    does, UsageError when the file cannot be there or a package is missing, and RunError when it cannot be written.
    """
    started = time.monotonic()
    check_place("out", config.out, suffixes=(".html",))
    if config.figures:
        require_package("matplotlib", extra="figures", option="--figures")
    sweeps, of_sweeps, config = _with_best_runs(config)
    parts = [part for result in sweeps for part in sweep_parts(result)]
    found = collect(config, on_progress=on_progress)
    of_seeds, drawings = _seeds([*of_sweeps, *groups_of_seeds(config.runs)])
    parts += of_seeds
    figures = _drawn(config.figures, partial(write_charts, charts=drawings)) if drawings else []
    room = int(config.most_bytes * (1 - _TEXT_SHARE)) // len(found)
    shown, left_out = 0, 0
    for of_run in found:
        pictures = Pictures(config.root or Path(of_run["root"]), most_bytes=room)
        name = f" of {Path(of_run['run']).name}" if len(found) > 1 else " of the best run" if sweeps else ""
        of_parts, drawings = _run(of_run, pictures, name=name)
        parts += of_parts
        shown, left_out = shown + pictures.shown, left_out + pictures.left_out
        folder = config.figures / Path(of_run["run"]).name if config.figures and len(found) > 1 else config.figures
        figures += _drawn(folder, partial(write_figures, found=of_run, charts=drawings))
    first = found[0]["metrics"]
    names = ", ".join(Path(name).name for name in [*(result["sweep"] for result in sweeps), *config.runs])
    said = (
        f"{first['cache']['dataset']} {first['protocol']['split']}, {first['cache']['model']}, protocol "
        f"{first['protocol']['name']}; clipret {__version__}"
    )
    content = page(f"Report: {names}", said, parts).encode("utf-8", "backslashreplace")
    with written(config.out), replaced(config.out) as unfinished:
        unfinished.write_bytes(content)
    return {
        "out": str(config.out),
        "bytes": len(content),
        "runs": [of_run["run"] for of_run in found],
        "pictures": shown,
        "pictures_left_out": left_out,
        "figures": figures,
        "seconds": time.monotonic() - started,
    }


def _run(found: dict, pictures: Pictures, *, name: str) -> tuple[list[tuple[str, str]], list[Chart]]:
    """(heading, HTML) of each part of a report on a run, and all drawings.

    name  of the run, after each heading
    """
    parts, drawings = [], []
    for module in PARTS.values():
        part = importlib.import_module(module).PART
        drawings += part.charts(found)
        content = part.render(found, pictures)
        if content:
            parts.append((f"{part.title}{name}", content))
    return parts, drawings


def _seeds(groups: list[list[Path]]) -> tuple[list[tuple[str, str]], list[Chart]]:
    """(heading, HTML) of each group of runs that differ in their seeds alone, and all drawings."""
    parts, drawings = [], []
    for number, curves in enumerate(filter(None, map(seed_curves, groups)), start=1):
        charts = seed_charts(curves, number=number)
        if charts:
            parts.append(seed_part(curves, charts))
            drawings += charts
    return parts, drawings


def _drawn(folder: Path | None, write: Callable[[Path], list[str]]) -> list[str]:
    """The files that a function wrote to a folder; none without a folder. Raises RunError when it cannot be written."""
    if folder is None:
        return []
    with written(folder, option="figures"):
        return [str(folder / name) for name in write(folder)]


def _with_best_runs(config: ReportConfig) -> tuple[list[dict], list[list[Path]], ReportConfig]:
    """The results of the sweeps among the runs, the runs of the best configuration of each, and the settings with the
    first of these in its place.

    Raises RunError when a sweep is not complete, or its best head was deleted.
    """
    results, best, groups = [], [], []
    for run in config.runs:
        if not is_sweep(run):
            best.append(run)
            continue
        sweep = read_sweep(run)
        if sweep.result is None:
            raise RunError(
                f"the sweep {run} is not complete; go on with: clipret sweep --resume {shlex.quote(str(run))}"
            )
        results.append(sweep.result)
        chosen = sweep.result["chosen"]
        seeds = zip(chosen["runs"], chosen["seeds"], strict=True)
        trained = [run / Path(name).name for name, seed in seeds if str(seed) not in chosen["failed"]]
        best.append(trained[0])
        groups.append(trained)
    return results, groups, replace(config, runs=tuple(best))
