"""What `clipret errors` shows of each direction: the worst queries, what changed, hubs, and where it is weak."""

import re

from rich import box
from rich.cells import cell_len
from rich.table import Table
from rich.text import Text

from clipret.metrics import metric_of, scale_of
from clipret.reporting.metrics import caveats

# Of terminals, and of the direction of writing, which would turn what follows in the line.
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]+")
_SIDES = {"t2i": ("captions", "images"), "i2t": ("images", "captions")}
# Columns of text at most, so that tables fit a line of 100; in a narrower one they are broken.
_QUERY, _EXPECTED, _INSTEAD = {"t2i": 30, "i2t": 18}, {"t2i": 16, "i2t": 24}, {"t2i": 24, "i2t": 26}
_CHANGED, _HUB = 36, 60
# So that most titles and notes are not broken.
_LEAST_WIDTH = 78


def failures_tables(report: dict) -> tuple[Table, ...]:
    """errors.json as tables, of each direction: the worst queries, changes if there are two heads, hubs, breakdowns."""
    tables = []
    for way, found in report["directions"].items():
        tables.append(_worst_table(way, found, report=report))
        if found["changed"]:
            tables.append(_changes_table(way, found["changed"]))
        tables.append(_hubs_table(way, found["hubs"], report=report))
        tables.append(_breakdown_table(way, found, report=report))
    return tuple(tables)


def failures_summary(report: dict) -> str:
    """What was looked at, and what has to be known of it, in words."""
    protocol = report["protocol"]
    subject = f"run {report['run']}" if report["run"] else report["head"] or "zero-shot"
    lines = [f"{subject}, cache {report['cache']['path']}, protocol {protocol['name']}, {protocol['split']}"]
    if protocol["folds"] > 1:
        lines.append(f"each of {protocol['folds']} galleries was ranked by itself; their queries are put together")
    return "\n".join([*lines, *caveats(report)])


def _worst_table(way: str, found: dict, *, report: dict) -> Table:
    heads, (asks, among) = report["heads"], _SIDES[way]
    table = _table(
        f"{way}: the worst of {found['queries']:,} {asks}, among {report['protocol'][way]['gallery']:,} {among}",
        note="rank of the best-placed matching item; ties count against us",
    )
    for head in heads:
        table.add_column(head, justify="right", no_wrap=True)
    for heading in ("query", "expected", "instead"):
        table.add_column(heading, overflow="fold")
    for query in found["worst"]:
        ranks = (f"{query['ranks'][head]:,}" for head in heads)
        expected = _lines([_name(item, way, expected=True) for item in query["expected"]], width=_EXPECTED[way])
        instead = _lines([_name(item, way) for item in query["retrieved"]], width=_INSTEAD[way])
        table.add_row(*ranks, _cut(_asked(query, way), _QUERY[way]), expected, instead)
    return table


def _changes_table(way: str, changed: dict) -> Table:
    counts = ", ".join(f"{changed[name]:,} {name}" for name in ("improved", "worsened", "same"))
    table = _table(
        f"{way}: ranks against zero-shot: {counts}",
        note="by the ratio of the two ranks: from 1 to 10 is more than from 500 to 600\n"
        f"ranks times {2 ** changed['mean_log2_ratio']:.3f} on average (geometric mean; below 1 is better)",
    )
    for heading in ("zero-shot", "trained"):
        table.add_column(heading, justify="right", no_wrap=True)
    for heading in ("query", "trained head's best wrong"):
        table.add_column(heading, overflow="fold")
    for name in ("most_improved", "most_worsened"):
        table.add_row("", "", Text(name.replace("_", " ") if changed[name] else f"none {name[5:]}", style="bold"), "")
        for query in changed[name]:
            ranks = (f"{query['ranks'][head]:,}" for head in ("zero-shot", "trained"))
            wrong = _cut(_name(query["retrieved"][0], way), _CHANGED) if query["retrieved"] else "–"
            table.add_row(*ranks, _cut(_asked(query, way), _CHANGED), wrong)
        table.add_section()
    return table


def _hubs_table(way: str, hubs: dict, *, report: dict) -> Table:
    heads, top = report["heads"], report["top"]
    any_head = hubs[heads[0]]
    table = _table(
        f"{way}: hubs, {_SIDES[way][1]} in the top {top} of many queries",
        note=f"N_{top}: queries that have an item in their top {top}; skewness 0: spread evenly, high: a few are hubs",
    )
    table.add_column("", overflow="fold")
    for head in heads:
        table.add_column(head, justify="right", no_wrap=True)
    rows = {
        f"skewness of N_{top}": "{skewness:.2f}",
        f"in no top {top}": "{never_retrieved_share:.1%}",
        f"share of the {_most_frequent(any_head)}": "{top_share:.1%}",
        f"N_{top} on average": "{mean:.1f}",
    }
    for label, form in rows.items():
        table.add_row(label, *(form.format(**hubs[head]) for head in heads))
    table.add_section()
    table.add_row(Text(f"N_{top} of the largest, {heads[-1]}", style="bold"))
    for item in hubs[heads[-1]]["largest"]:
        table.add_row(_cut(_name(item, way), _HUB), *(f"{item['counts'][head]:,}" for head in heads))
    return table


def _most_frequent(hubs: dict) -> str:
    count, items = hubs["top_items"], hubs["items"]
    return f"most frequent {'item' if count == 1 else f'{count:,} items'} of {items:,}"


def _breakdown_table(way: str, found: dict, *, report: dict) -> Table:
    heads, overall = report["heads"], found["overall"]
    parts = {"caption_length": "words a caption", "positives": "matching items"}
    notes = [f"percent; {' → '.join(heads)}"]
    few = any(entry["few"] for name in parts for entry in found["breakdown"][name]["bins"])
    notes += ["words: the mean over the image's captions"] if way == "i2t" else []
    notes += ["*: few queries, the figures say little"] if few else []
    left_out = found["breakdown"]["caption_length"]["left_out"]
    notes += [f"{left_out:,} images without a caption of their own are in no row of words"] if left_out else []
    table = _table(f"{way}: by caption length and matching items", note="\n".join(notes))
    table.add_column("", no_wrap=True)
    for heading in ("queries", *(name.replace("median_rank", "median") for name in overall[heads[0]])):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_row("all", f"{found['queries']:,}", *_figures(overall, heads))
    for name, label in parts.items():
        bins = found["breakdown"][name]["bins"]
        if len(bins) > 1:
            table.add_section()
            table.add_row(Text(label, style="bold"))
            for entry in bins:
                count = f"{entry['queries']:,}{'*' if entry['few'] else ''}"
                table.add_row(f"  {_span(entry)}", count, *_figures(entry["results"], heads))
    return table


def _table(title: str, *, note: str) -> Table:
    table = Table(title=title, caption=note, caption_justify="left", box=box.SIMPLE, min_width=_LEAST_WIDTH)
    table.collapse_padding, table.pad_edge = True, False
    return table


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


def _asked(query: dict, way: str) -> str:
    return query["caption"] if way == "t2i" else query["file"]


def _name(item: dict, way: str, *, expected: bool = False) -> str:
    """What an item is called: an image by what it shows, or by its file where that is the question."""
    shown = None if way == "t2i" and expected else item["caption"]
    return item["file"] if shown is None else shown


def _lines(texts: list[str], *, width: int) -> Text:
    return Text("\n").join([_cut(text, width) for text in texts]) if texts else Text("–")


def _cut(text: str, width: int) -> Text:
    """One line of plain text with at most `width` cells, an ellipsis where it was cut; a file keeps its end."""
    plain = " ".join(_CONTROL.sub(" ", text).split())
    if cell_len(plain) > width and " " not in plain:
        while cell_len(plain) > width - 1:
            plain = plain[1:]
        plain = f"…{plain}"
    shown = Text(plain)
    shown.truncate(width, overflow="ellipsis")
    return shown
