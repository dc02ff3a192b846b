"""The figures of a metrics.json in a model card: tables, and Hugging Face's model-index."""

import shlex
from pathlib import Path
from typing import Any

from clipret import runs
from clipret.errors import RunError
from clipret.evaluation.caveats import caveats
from clipret.exports.checkpoints.card.markdown import bullets, table
from clipret.machine.escaping import markdown_text, visible
from clipret.machine.records import Each, Maybe, RecordError, require_form
from clipret.metrics import RSUM, cut_of, family_of, heading_of, scale_of

_DIRECTIONS = {"t2i": "text to image", "i2t": "image to text"}
_TASKS = {"t2i": "text-to-image-retrieval", "i2t": "image-to-text-retrieval"}
_ENDS = ([float], None)
_INTERVALS = {"t2i": Each(_ENDS), "i2t": Each(_ENDS), RSUM: _ENDS}
_COUNTS = {"queries": int, "gallery": int}
# What the tables ask of metrics.json, beyond what runs.read_metrics does.
_FORM = {
    "cache": {"dataset": str, "model": str, "fingerprint": str},
    "finished": (bool, None),
    "results": Each(dict.fromkeys(_DIRECTIONS, Each(float))),
    "protocol": {
        "name": str,
        "split": str,
        "t2i": _COUNTS,
        "i2t": _COUNTS,
        "precision": str,
        "images": int,
        "images_left_out": int,
        "remarks": [str],
        "best_reachable": Maybe((Each(Each(float)), None)),
    },
    "leakage": ({"checked": bool, "trained_on": (int, None), "images": int}, None),
    "copies": Maybe(({"copies": int, "images": int, "split": str, "of": str}, None)),
    "intervals": ({"level": float, "resamples": int, "heads": Each(_INTERVALS), "gain": (_INTERVALS, None)}, None),
}


def measurements(report: dict, *, run: Path) -> list[dict]:
    """A run's metrics.json -> the measurement of each of its protocols. Raises RunError when something is missing."""
    parts = [{**report, **part} for part in (report, *report.get("also", ()))]
    try:
        for part in parts:
            require_form(part, _FORM)
            require_form(part["results"], {"trained": Any}, name="results")
    except RecordError as error:
        raise RunError(
            f"{run / runs.METRICS} is not what clipret eval writes: {error}; measure it again with: clipret eval "
            f"--head {shlex.quote(str(run))}"
        ) from None
    return parts


def figure_lines(measured: dict) -> list[str]:
    """Markdown: a protocol's figures, the baseline beside trained, with intervals and what they were measured on."""
    protocol, intervals = measured["protocol"], measured["intervals"]
    heads = list(_shown_heads(measured))
    rows = [["", *heads, "gain"]]
    for direction, words in _DIRECTIONS.items():
        rows += [
            [f"{words}, {heading_of(name)}", *_cells(measured, name, direction=direction)]
            for name in shown_metrics(measured)
        ]
    rows.append([RSUM, *_cells(measured, RSUM)])
    counts = ", ".join(
        f"{protocol[side]['queries']:,} {queries} among {protocol[side]['gallery']:,} {gallery}"
        for side, queries, gallery in (("t2i", "captions", "images"), ("i2t", "images", "captions"))
    )
    notes = [f"Queries: {counts}. In percent, ranks aside; ties count against the model."]
    if intervals:
        notes.append(f"In brackets: {100 * intervals['level']:.0f} % intervals over images.")
    notes += [f"Note: {line}." for line in caveats(measured)]
    title = f"{measured['cache']['dataset']}, split {protocol['split']}, protocol {protocol['name']}"
    return [f"**{markdown_text(title)}**", "", *table(rows, numbers=True), *bullets(notes)]


def shown_metrics(measured: dict) -> list[str]:
    """R at every K, mAP at the largest, MRR and the median rank, as far as they were measured."""
    names = list(measured["results"]["trained"]["t2i"])
    precision = [name for name in names if family_of(name) == "mAP" and cut_of(name)]
    return [
        *(name for name in names if family_of(name) == "R"),
        *sorted(precision, key=cut_of)[-1:],
        *(name for name in ("MRR", "median_rank") if name in names),
    ]


def model_index(name: str, parts: list[dict]) -> list[dict]:
    """Hugging Face's model-index: the trained head's figures as metrics.json has them, fractions and all digits."""
    return [{"name": name, "results": [_index_entry(part, side) for part in parts for side in _DIRECTIONS]}]


def _index_entry(measured: dict, direction: str) -> dict[str, Any]:
    protocol, figures = measured["protocol"], measured["results"]["trained"][direction]
    return {
        "task": {"type": _TASKS[direction], "name": f"{_DIRECTIONS[direction]} retrieval"},
        "dataset": {
            "type": visible(measured["cache"]["dataset"]),
            "name": visible(f"{measured['cache']['dataset']}, protocol {protocol['name']}"),
            "split": visible(protocol["split"]),
        },
        "metrics": [
            {"type": metric, "name": f"{direction} {heading_of(metric)}", "value": figures[metric]}
            for metric in shown_metrics(measured)
        ],
    }


def _shown_heads(measured: dict) -> tuple[str, str]:
    """The baseline, and trained; what lies between them is left out."""
    return next(iter(measured["results"])), "trained"


def _cells(measured: dict, name: str, *, direction: str | None = None) -> list[str]:
    """The figures of both heads and the gain; direction None: of both, as rsum is."""
    intervals = measured["intervals"] or {"heads": {}, "gain": None}
    values, ends = [], []
    for head in _shown_heads(measured):
        figures = measured[name] if direction is None else measured["results"][head][direction]
        values.append(figures.get(head if direction is None else name))
        ends.append(_of(intervals["heads"].get(head), name, direction))
    values.append(None if None in values else values[1] - values[0])
    ends.append(_of(intervals["gain"], name, direction))
    signs = ("", "", "+")
    return [_cell(name, *parts) for parts in zip(values, ends, signs, strict=True)]


def _of(intervals: dict | None, name: str, direction: str | None) -> list[float] | None:
    if intervals is None:
        return None
    return intervals.get(name) if direction is None else intervals[direction].get(name)


def _cell(name: str, value: float | None, ends: list[float] | None, sign: str) -> str:
    if value is None:
        return ""
    digits, scale = (3, 1) if name == RSUM else (1, scale_of(name))
    text = f"{scale * value:{sign}.{digits}f}"
    if not ends:
        return text
    fewer = 2 if name == RSUM else 1
    return f"{text} ({', '.join(f'{round(scale * end, fewer) + 0.0:.{fewer}f}' for end in ends)})"
