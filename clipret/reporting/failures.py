"""What `clipret failures` shows of each direction: the worst queries, what changed, hubs, and weak spots."""

import re

from clipret.evaluation.caveats import caveats
from clipret.metrics import metric_of, scale_of
from clipret.reporting.metrics import SIDES
from clipret.reporting.sheets import LABEL, Cell, Column, Sheet, heading_cell

# Of terminals, and of the direction of writing, which would reverse what follows in the line.
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]+")
# Widths of columns of text in a terminal, so that a table fits a line of 100.
_QUERY, _EXPECTED, _INSTEAD = {"t2i": 30, "i2t": 18}, {"t2i": 16, "i2t": 24}, {"t2i": 24, "i2t": 26}
_CHANGED, _HUB = 36, 60
_NONE = "–"


def failures_sheets(report: dict) -> tuple[Sheet, ...]:
    """failures.json as tables: for each direction the worst queries, changes (of two heads), hubs and breakdowns."""
    sheets = []
    for direction, part in report["directions"].items():
        sheets.append(_worst(direction, part, report=report))
        if part["changed"]:
            sheets.append(_changes(direction, part["changed"], heads=report["heads"]))
        sheets.append(_hubs(direction, part["hubs"], report=report))
        sheets.append(_breakdown(direction, part, report=report))
    return tuple(sheets)


def failures_summary(report: dict) -> str:
    """What was measured, and the warnings that belong to it, in words."""
    protocol = report["protocol"]
    subject = f"run {report['run']}" if report["run"] else report["head"] or report["heads"][0]
    lines = [f"{subject}, cache {report['cache']['path']}, protocol {protocol['name']}, {protocol['split']}"]
    if protocol["folds"] > 1:
        lines.append(f"each of {protocol['folds']} galleries was ranked by itself; their queries are put together")
    return "\n".join([*lines, *caveats(report)])


def _worst(direction: str, part: dict, *, report: dict) -> Sheet:
    heads, (queries, gallery) = report["heads"], SIDES[direction]
    rows = []
    for query in part["worst"]:
        expected = "\n".join(_name(item, direction, expected=True) for item in query["expected"]) or _NONE
        retrieved = "\n".join(_name(item, direction) for item in query["retrieved"]) or _NONE
        rows.append((*_ranks(query, heads), _asked(query, direction), expected, retrieved))
    texts = {"query": _QUERY, "expected": _EXPECTED, "instead": _INSTEAD}
    return Sheet(
        f"{direction}: the worst of {part['queries']:,} {queries}, among "
        f"{report['protocol'][direction]['gallery']:,} {gallery}",
        (*map(Column, heads), *(_text_column(name, widths[direction]) for name, widths in texts.items())),
        (tuple(rows),),
        ("rank of the best-placed matching item; ties count against us",),
    )


def _changes(direction: str, changed: dict, *, heads: list[str]) -> Sheet:
    blocks = []
    for name in ("most_improved", "most_worsened"):
        heading = name.replace("_", " ") if changed[name] else f"none {name.removeprefix('most_')}"
        rows = [("", "", heading_cell(heading))]
        for query in changed[name]:
            wrong = _name(query["retrieved"][0], direction) if query["retrieved"] else _NONE
            rows.append((*_ranks(query, heads), _asked(query, direction), wrong))
        blocks.append(tuple(rows))
    counts = ", ".join(f"{changed[name]:,} {name}" for name in ("improved", "worsened", "same"))
    texts = (_text_column(name, _CHANGED) for name in ("query", "trained head's best wrong"))
    return Sheet(
        f"{direction}: ranks against {heads[0]}: {counts}",
        (*map(Column, heads), *texts),
        tuple(blocks),
        (
            "by the ratio of the two ranks: from 1 to 10 is more than from 500 to 600",
            f"ranks times {2 ** changed['mean_log2_ratio']:.3f} on average (geometric mean; below 1 is better)",
        ),
    )


def _hubs(direction: str, hubs: dict, *, report: dict) -> Sheet:
    heads, top = report["heads"], report["top"]
    figures = {
        f"skewness of N_{top}": ("skewness", ".2f"),
        f"in no top {top}": ("never_retrieved_share", ".1%"),
        f"share of the {_most_frequent(hubs[heads[0]])}": ("top_share", ".1%"),
        f"N_{top} on average": ("mean", ".1f"),
    }
    rows = [(label, *(Cell(hubs[head][name], form) for head in heads)) for label, (name, form) in figures.items()]
    largest = [
        (_name(item, direction), *(Cell(item["counts"][head], ",") for head in heads))
        for item in hubs[heads[-1]]["largest"]
    ]
    return Sheet(
        f"{direction}: hubs, {SIDES[direction][1]} in the top {top} of many queries",
        (_text_column("", _HUB), *map(Column, heads)),
        (tuple(rows), ((heading_cell(f"N_{top} of the largest, {heads[-1]}"),), *largest)),
        (f"N_{top}: queries that have an item in their top {top}; skewness 0: spread evenly, high: a few are hubs",),
    )


def _most_frequent(hubs: dict) -> str:
    count, items = hubs["top_items"], hubs["items"]
    return f"most frequent {'item' if count == 1 else f'{count:,} items'} of {items:,}"


def _breakdown(direction: str, part: dict, *, report: dict) -> Sheet:
    heads, overall, breakdown = report["heads"], part["overall"], part["breakdown"]
    blocks = [(("all", Cell(part["queries"], ","), *_figures(overall, heads)),)]
    labels = {"caption_length": "words a caption", "positives": "matching items"}
    for name, label in labels.items():
        bins = breakdown[name]["bins"]
        if len(bins) > 1:
            blocks.append(((heading_cell(label),), *(_bin(entry, heads) for entry in bins)))
    left_out = breakdown["caption_length"]["left_out"]
    notes = [f"percent; {' → '.join(heads)}"]
    notes += ["words: the mean over the image's captions"] if direction == "i2t" else []
    if any(entry["few"] for name in labels for entry in breakdown[name]["bins"]):
        notes.append("*: few queries, the figures say little")
    notes += [f"{left_out:,} images without a caption of their own are in no row of words"] if left_out else []
    names = ("queries", *(name.replace("median_rank", "median") for name in overall[heads[0]]))
    title = f"{direction}: by caption length and matching items"
    return Sheet(title, (LABEL, *map(Column, names)), tuple(blocks), tuple(notes))


def _bin(entry: dict, heads: list[str]) -> tuple[Cell | str, ...]:
    count = f"{entry['queries']:,}*" if entry["few"] else Cell(entry["queries"], ",")
    return (f"  {_span(entry)}", count, *_figures(entry["results"], heads))


def _text_column(name: str, width: int) -> Column:
    return Column(name, align="left", wrap=True, width=width)


def _ranks(query: dict, heads: tuple[str, ...]) -> list[Cell]:
    return [Cell(query["ranks"][head], ",") for head in heads]


def _figures(results: dict, heads: list[str]) -> list[str]:
    def figure(name: str, value: float) -> str:
        if metric_of(name).unit == "rank":
            return f"{value:,.0f}" if value >= 1000 else f"{value:.1f}"
        return f"{scale_of(name) * value:.1f}"

    names = results[heads[0]]
    return [" → ".join(figure(name, results[head][name]) for head in heads) for name in names]


def _span(entry: dict) -> str:
    low, high = (f"{entry[edge]:.1f}".removesuffix(".0") for edge in ("low", "high"))
    return low if low == high else f"{low}–{high}"


def _asked(query: dict, direction: str) -> str:
    return _one_line(query["caption"] if direction == "t2i" else query["file"])


def _name(item: dict, direction: str, *, expected: bool = False) -> str:
    """What an item is called: an image by what it shows, or by its file where that is the question."""
    caption = None if direction == "t2i" and expected else item["caption"]
    return _one_line(item["file"] if caption is None else caption)


def _one_line(text: str) -> str:
    return " ".join(_CONTROL.sub(" ", text).split())
