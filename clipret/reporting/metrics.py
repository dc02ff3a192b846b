"""What eval shows: a table for each protocol, metrics down and heads across, each figure with its interval."""

from clipret.evaluation.caveats import caveats
from clipret.metrics import RSUM, heading_of
from clipret.reporting.figures import figure, is_unbounded, limits, unbounded_notes
from clipret.reporting.languages import language_sheets
from clipret.reporting.sheets import LABEL, Cell, Column, Sheet, heading_cell

# Direction -> what its queries and its gallery are.
SIDES = {"t2i": ("captions", "images"), "i2t": ("images", "captions")}
# Three columns with their intervals beside the figures fit a line of 80.
_MOST_BESIDE = 3


def metrics_sheets(report: dict, *, names: tuple[str, ...]) -> tuple[Sheet, ...]:
    """metrics.json as a table for each protocol; one for all languages of a protocol that has several.

    names  of the metrics that are shown; rsum comes last
    """
    several = {mean["protocol"] for mean in report.get("languages", ())}
    alone = [
        measured
        for measured in (report, *report.get("also", ()))
        if measured["protocol"]["name"].partition(":")[0] not in several
    ]
    sheets = tuple(_sheet({**report, **measured}, names=names) for measured in alone)
    return language_sheets(report, names=names) + sheets


def _sheet(measured: dict, *, names: tuple[str, ...]) -> Sheet:
    protocol, cache = measured["protocol"], measured["cache"]
    title = f"{cache['dataset']} {protocol['split']}, {cache['model']}, protocol {protocol['name']}"
    better = "trained" if "trained" in measured["results"] else None
    return figures_sheet(title, measured, names=names, better=better, notes=_notes(measured, names))


def figures_sheet(title: str, measured: dict, *, names: tuple[str, ...], better: str | None, notes: list[str]) -> Sheet:
    """Metrics down and heads across, each figure with its interval.

    measured  results, rsum and intervals, as metrics.json has them
    better    the head whose gain over the first one is shown, and in intervals; None: no gain
    """
    blocks = []
    for direction in SIDES:
        rows = [
            (f"  {heading_of(name)}", *_cells(measured, name, direction=direction, better=better))
            for name in names
            if name != RSUM
        ]
        blocks.append(((heading_cell(direction),), *rows))
    if RSUM in names:
        blocks.append(((heading_cell(RSUM), *_cells(measured, RSUM, better=better)),))
    columns = (LABEL, *map(Column, [*measured["results"], *(["gain"] if better else [])]))
    beside = len(columns) - 1 <= _MOST_BESIDE
    return Sheet(title, columns, tuple(blocks), tuple(notes), beside=beside)


def _cells(measured: dict, name: str, *, direction: str | None = None, better: str | None) -> list[Cell]:
    """A metric of every head, and its gain.

    direction  None: of both, as rsum is
    """
    intervals = measured["intervals"] or {"heads": {}, "gain": None}
    if direction is None:
        values = {head: measured[name][head] for head in measured["results"]}
    else:
        values = {head: results[direction][name] for head, results in measured["results"].items()}

    def cell(value: float, figures: dict | None, *, sign: bool = False) -> Cell:
        interval = None if figures is None else figures[name] if direction is None else figures[direction][name]
        ends = ", ".join(limits(name, interval, digits=2 if name == RSUM else 1))
        return figure(name, value, sign=sign, interval=f"[{ends}]" if ends else "")

    cells = [cell(value, intervals["heads"].get(head)) for head, value in values.items()]
    if better:
        first = next(iter(values.values()))
        cells.append(cell(values[better] - first, intervals["gain"], sign=True))
    return cells


def _notes(measured: dict, names: tuple[str, ...]) -> list[str]:
    protocol, intervals = measured["protocol"], measured["intervals"]
    lines = [
        f"{direction}: {protocol[direction]['queries']:,} {queries} among {protocol[direction]['gallery']:,} {gallery}"
        + (f", mean of {protocol['folds']}" if protocol["folds"] > 1 else "")
        for direction, (queries, gallery) in SIDES.items()
    ]
    divided = any(name.startswith("mAP@") and name != "mAP@R" for name in names)
    divisor = f"; mAP@K divides by {protocol['map_divisor']}(K, matching items)" if divided else ""
    lines.append(f"percent; ties count against us{divisor}")
    if intervals:
        paired = f"; the gain's by {intervals['resamples']:,} paired flips" if intervals["gain"] else ""
        lines.append(f"in brackets {100 * intervals['level']:.0f} % intervals over images{paired}")
        lines += unbounded_notes(names)
        if intervals["gain"] and any(map(is_unbounded, names)):
            lines.append("a gain in ranks has no interval")
    return [*lines, *caveats(measured)]
