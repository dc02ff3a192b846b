"""Runs -> a page that says what was gained, what was lost, what fails and why: the function behind `clipret report`."""

import importlib
import shlex
import time
from dataclasses import replace
from pathlib import Path

from clipret import __version__
from clipret.config import ReportConfig
from clipret.errors import RunError
from clipret.evaluation.findings.stage import collect
from clipret.exports.packages import require_package
from clipret.machine.files import replaced
from clipret.machine.progress import ProgressCallback, silent
from clipret.reporting.pages import PARTS
from clipret.reporting.pages.page import page
from clipret.reporting.pages.papers import write_figures
from clipret.reporting.pages.pictures import Pictures
from clipret.reporting.pages.sweeps import sweep_parts
from clipret.runs import check_place, is_sweep, written
from clipret.sweeps.folder import read_sweep

# Of the page, for what is no picture.
_TEXT_SHARE = 0.15


def report(config: ReportConfig, *, on_progress: ProgressCallback = silent) -> dict:
    """Write a report on runs: one HTML file that needs nothing else.

    on_progress  called after each run, with phase "runs"

    A sweep stands for its leaderboard, the effects of its settings, and its best run. Each run is measured as eval and
    failures do it, which writes their files. Pictures are those of the data set, where they are at hand; without them
    the report has the files' names.

    Returns out, bytes, runs, pictures, pictures_left_out, figures (files) and seconds. Raises as findings.stage.collect
    does, UsageError when the file cannot be there or a package is missing, and RunError when it cannot be written.
    """
    started = time.monotonic()
    check_place("out", config.out, suffixes=(".html",))
    if config.figures:
        require_package("matplotlib", extra="figures", option="--figures")
    sweeps, config = _with_best_runs(config)
    parts = [part for result in sweeps for part in sweep_parts(result)]
    found = collect(config, on_progress=on_progress)
    room = int(config.most_bytes * (1 - _TEXT_SHARE)) // len(found)
    shown, left_out, figures = 0, 0, []
    for of_run in found:
        pictures = Pictures(config.root or Path(of_run["root"]), most_bytes=room)
        name = f" of {Path(of_run['run']).name}" if len(found) > 1 else " of the best run" if sweeps else ""
        drawings = []
        for module in PARTS.values():
            part = importlib.import_module(module).PART
            drawings += part.charts(of_run)
            content = part.render(of_run, pictures)
            if content:
                parts.append((f"{part.title}{name}", content))
        shown, left_out = shown + pictures.shown, left_out + pictures.left_out
        if config.figures:
            folder = config.figures / Path(of_run["run"]).name if len(found) > 1 else config.figures
            with written(folder, option="figures"):
                figures += [str(folder / name) for name in write_figures(folder, of_run, drawings)]
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


def _with_best_runs(config: ReportConfig) -> tuple[list[dict], ReportConfig]:
    """The results of the sweeps among the runs, and the settings with the best run of each in its place.

    Raises RunError when a sweep is not complete, or its best head was deleted.
    """
    results, best = [], []
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
        best.append(run / next(Path(name).name for name, seed in seeds if str(seed) not in chosen["failed"]))
    return results, replace(config, runs=tuple(best))
