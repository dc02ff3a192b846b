"""Runs -> a page that says what was gained, what was lost, what fails and why: the function behind `clipret report`."""

import importlib
import time
from pathlib import Path

from clipret import __version__
from clipret.config import ReportConfig
from clipret.evaluation.findings.stage import collect
from clipret.machine.files import replaced
from clipret.machine.progress import ProgressCallback, silent
from clipret.reporting.pages import PARTS
from clipret.reporting.pages.page import page
from clipret.reporting.pages.pictures import Pictures
from clipret.runs import check_place, written

# Of the page, for what is no picture.
_TEXT_SHARE = 0.15


def report(config: ReportConfig, *, on_progress: ProgressCallback = silent) -> dict:
    """Write a report on runs: one HTML file that needs nothing else.

    on_progress  called after each run, with phase "runs"

    Each run is measured as eval and failures do it, which writes their files. Pictures are those of the data set, where
    they are at hand; without them the report has the files' names.

    Returns out, bytes, runs, pictures, pictures_left_out and seconds. Raises as findings.stage.collect does, UsageError
    when the file cannot be there, and RunError when it cannot be written.
    """
    started = time.monotonic()
    check_place("out", config.out, suffixes=(".html",))
    found = collect(config, on_progress=on_progress)
    room = int(config.most_bytes * (1 - _TEXT_SHARE)) // len(found)
    parts, shown, left_out = [], 0, 0
    for of_run in found:
        pictures = Pictures(config.root or Path(of_run["root"]), most_bytes=room)
        name = f" of {Path(of_run['run']).name}" if len(found) > 1 else ""
        for module in PARTS.values():
            part = importlib.import_module(module).PART
            content = part.render(of_run, pictures)
            if content:
                parts.append((f"{part.title}{name}", content))
        shown, left_out = shown + pictures.shown, left_out + pictures.left_out
    first = found[0]["metrics"]
    names = ", ".join(Path(of_run["run"]).name for of_run in found)
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
        "seconds": time.monotonic() - started,
    }
