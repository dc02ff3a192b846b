"""What eval shows: a table for each protocol, metrics down and heads across, each figure with its interval."""

from math import isinf

from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from clipret.annotations.counting import copies_in_words
from clipret.metrics import RSUM, heading_of, metric_of, scale_of

# The best reachable figure below which another protocol is advised: a rare pair of equal captions asks for none.
_ADVISED_BELOW = 0.99
_UNCHECKED = "leakage was not checked: the head does not say which images it was trained on"
_UNCHECKED_IMAGES = "leakage was not checked for all images: the cache does not have the digests of all their files"
_ASKS = {"t2i": ("captions", "images"), "i2t": ("images", "captions")}


def metrics_tables(report: dict, *, names: tuple[str, ...]) -> tuple[Group, ...]:
    """metrics.json as a table for each protocol.

    names  of the metrics that are shown; rsum comes last
    """
    return tuple(_table({**report, **measured}, names=names) for measured in (report, *report.get("also", ())))


def _table(measured: dict, *, names: tuple[str, ...]) -> Group:
    protocol, cache, heads = measured["protocol"], measured["cache"], list(measured["results"])
    table = Table(box=box.SIMPLE, pad_edge=False)
    table.add_column("", no_wrap=True)
    for head in [*heads, "gain"] if "trained" in heads else heads:
        table.add_column(head, justify="right", no_wrap=True)
    for way in _ASKS:
        table.add_row(f"[bold]{way}[/bold]")
        for name in names:
            if name != RSUM:
                table.add_row(f"  {heading_of(name)}", *_cells(measured, name, way=way))
        table.add_section()
    if RSUM in names:
        table.add_row(f"[bold]{RSUM}[/bold]", *_cells(measured, RSUM))
    title = f"{cache['dataset']} {protocol['split']}, {cache['model']}, protocol {protocol['name']}"
    # Not the table's own title and caption, which would be broken to its width.
    return Group(Text(title, style="table.title"), table, Text(_footnote(measured, names), style="table.caption"))


def _cells(measured: dict, name: str, *, way: str | None = None) -> list[str]:
    """A metric of every head, and of the gain: way None is for what is of both directions."""
    results = measured["results"]
    values = {head: measured["rsum"][head] if way is None else ways[way][name] for head, ways in results.items()}
    intervals = measured["intervals"] or {"heads": {}, "gain": None}

    def interval(found: dict | None) -> list[float] | None:
        return None if found is None else found[name] if way is None else found[way][name]

    # Beside each other two heads and the gain fit a line of 80.
    between = " " if len(values) <= 2 else "\n"
    cells = [
        _cell(name, value, interval(intervals["heads"].get(head)), between=between) for head, value in values.items()
    ]
    if "trained" in values:
        gain = values["trained"] - values["zero-shot"]
        cells.append(_cell(name, gain, interval(intervals["gain"]), between=between, sign=True))
    return cells


def _cell(name: str, value: float, interval: list[float] | None, *, between: str, sign: bool = False) -> str:
    scale = scale_of(name)
    text = f"{scale * value:{'+' if sign else ''}.{3 if name == RSUM else 1}f}"
    if interval is not None:
        digits = 2 if name == RSUM else 1
        # Plus 0: no sign where nothing but zeros is left.
        low, high = (f"{round(scale * end, digits) + 0.0:.{digits}f}" for end in interval)
        text += f"{between}[dim]\\[{low}, {high}][/dim]"
    return text


def _footnote(measured: dict, names: tuple[str, ...]) -> str:
    protocol, intervals = measured["protocol"], measured["intervals"]
    lines = [
        f"{way}: {protocol[way]['queries']:,} {asks} among {protocol[way]['gallery']:,} {among}"
        + (f", mean of {protocol['folds']}" if protocol["folds"] > 1 else "")
        for way, (asks, among) in _ASKS.items()
    ]
    divided = any(name.startswith("mAP@") and name != "mAP@R" for name in names)
    divisor = f"; mAP@K divides by {protocol['map_divisor']}(K, matching items)" if divided else ""
    lines.append(f"percent; ties count against us{divisor}")
    if intervals:
        paired = f"; the gain's by {intervals['resamples']:,} paired flips" if intervals["gain"] else ""
        lines.append(f"in brackets {100 * intervals['level']:.0f} % intervals over images{paired}")
        unbounded = [name for name in names if isinf(metric_of(name).limit)]
        lines += unbounded_notes(names)
        if intervals["gain"] and unbounded:
            lines.append("a gain in ranks has no interval")
    return "\n".join([*lines, *caveats(measured)])


def unbounded_notes(names: tuple[str, ...]) -> list[str]:
    """Why means of these metrics that have no largest value are without an interval, a line each."""
    means = [name for name in names if isinf(metric_of(name).limit) and not metric_of(name).is_median]
    return [f"a {heading_of(name)} has no interval: one image can move it by any amount" for name in means]


def caveats(measured: dict) -> list[str]:
    """What has to be known beside figures, as metrics.json has it: a line each, none where all is well."""
    protocol, leakage, lines = measured["protocol"], measured["leakage"], []
    if measured["finished"] is False:
        lines.append("the run is unfinished: its training was interrupted, or goes on")
    if protocol["precision"] != "fp32":
        lines.append(f"embeddings rounded to {protocol['precision']}")
    left_out, images = protocol["images_left_out"], protocol["images"]
    if left_out:
        lines.append(
            f"{images:,} of {images + left_out:,} images: {left_out:,} have no usable feature and are left out"
        )
    lines += reachable_notes(protocol)
    if protocol["remarks"]:
        lines.append(f"not comparable with published figures: {'; '.join(protocol['remarks'])}")
    if leakage and leakage["trained_on"]:
        lines.append(f"LEAK: {leakage['trained_on']:,} of these {leakage['images']:,} images were trained on")
    if leakage and not leakage["checked"]:
        lines.append(_UNCHECKED if leakage["trained_on"] is None else _UNCHECKED_IMAGES)
    copies = measured.get("copies")
    if copies and copies["copies"]:
        clean = leakage and leakage["checked"] and not leakage["trained_on"]
        lines.append(copies_in_words(copies) + ("; the head was trained on none of them" if clean else ""))
    return lines


def reachable_notes(protocol: dict) -> list[str]:
    """What no head can exceed, where that shows in a figure, and the protocol that asks for no more than there is.

    protocol  as metrics.json has it
    """
    best = list((protocol.get("best_reachable") or {}).items())
    short = []
    for way, figures in best:
        below = [f"{name} {scale_of(name) * value:.1f}" for name, value in figures.items() if value < 0.9995]
        short += [f"{way} {', '.join(below)}"] if below else []
    if not short:
        return []
    lines = [f"the best that any head can reach here, as several images share captions: {', '.join(short)}"]
    worst = min(value for _, figures in best for value in figures.values())
    if protocol["name"] == "split" and worst < _ADVISED_BELOW:
        split = "" if protocol["split"] == "test" else f" --split {protocol['split']}"
        lines.append(f"where equal captions should match all their images: --protocol split-equal-texts{split}")
    return lines
