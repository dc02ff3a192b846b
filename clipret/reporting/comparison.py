"""What a comparison shows: figures with intervals, and every pair's test, as sheets of text.

CSV is made for programs, and has plain numbers.
"""

import csv
import io
from math import isinf

from rich.console import Group

from clipret.config.comparison import A_BETTER, B_BETTER, NO_TEST, NOT_SHOWN, ZERO_SHOT
from clipret.machine.escaping import csv_cell
from clipret.metrics import RSUM, heading_of, metric_of, scale_of
from clipret.reporting.metrics import reachable_notes, unbounded_notes
from clipret.reporting.sheets import VERDICT, Cell, Fitted, Sheet, sheet_table

_PAIR = ("a", "b", "metric", "p", "p_holm", "verdict")
_NONE = "–"
# Pairs that are shown whole in a terminal.
_MOST_PAIRS = 10


def comparison_sheets(result: dict) -> tuple[Sheet, Sheet]:
    """What compare returned: the figures of the groups, and the differences of the pairs."""
    return _figures(result), _differences(result)


def comparison_tables(result: dict) -> tuple[Fitted | Group, ...]:
    """The sheets for a terminal; of many pairs only the differences that are shown."""
    figures, differences = comparison_sheets(result)
    notes = differences.notes
    if len(differences.blocks) > _MOST_PAIRS:
        # The verdict is the last cell.
        rows = tuple(row for block in differences.blocks for row in block if row[-1].text not in (NOT_SHOWN, NO_TEST))
        notes = (f"of {len(differences.blocks)} pairs only the differences that are shown; all with --json", *notes)
        differences = Sheet(differences.title, differences.header, (rows,) if rows else ())
    return Fitted(figures), sheet_table(differences, columns=list(range(len(differences.header))), notes=notes)


def to_csv(result: dict) -> str:
    """A line each figure of a group and each difference of a pair, fractions as they are."""
    text = io.StringIO(newline="")
    names = ["kind", "a", "b", "label", "seeds", "direction", "metric", "value", "low", "high", "spread"]
    lines = csv.DictWriter(text, [*names, "p", "p_holm", "verdict"], restval="", lineterminator="\n")
    lines.writeheader()
    for group in result["groups"]:
        about = {
            "kind": "group",
            "a": csv_cell(group["name"]),
            "label": csv_cell(group["label"]),
            "seeds": len(group["seeds"]),
        }
        for direction, metric in _columns(result):
            value, interval, spread = (
                _of(group[what], direction, metric) for what in ("values", "intervals", "spread")
            )
            low, high = interval or ("", "")
            place = {"direction": direction or "", "metric": metric}
            spread = "" if spread is None else spread
            lines.writerow({**about, **place, "value": value, "low": low, "high": high, "spread": spread})
    for pair in result["pairs"]:
        low, high = pair["interval"] or ("", "")
        figures = {"value": pair["difference"], "low": low, "high": high, "direction": pair["direction"] or ""}
        told = {name: "" if pair[name] is None else csv_cell(pair[name]) for name in _PAIR}
        lines.writerow({"kind": "pair", **told, **figures})
    return text.getvalue()


def _figures(result: dict) -> Sheet:
    protocol, columns = result["protocol"], _columns(result)
    best = _best(result)
    rows = []
    for number, group in enumerate(result["groups"], start=1):
        seeds = f" ({len(group['seeds'])} seeds)" if group["spread"] else ""
        cells = [Cell(f"{number} {group['label']}{seeds}")]
        for direction, metric in columns:
            value, interval, spread = (
                _of(group[what], direction, metric) for what in ("values", "intervals", "spread")
            )
            told = _figure(metric, value) + ("" if spread is None else f"±{_figure(metric, spread)}")
            under = "–".join(_figure(metric, end) for end in interval or ())
            cells.append(Cell(told, under, bold=best.get((direction, metric)) == group["name"]))
        rows.append(tuple(cells))
    header = ("", *(_heading(direction, metric) for direction, metric in columns))
    title = f"{protocol['split']}, protocol {protocol['name']}"
    marked = any(cell.bold for row in rows for cell in row)
    return Sheet(title, header, (tuple(rows),), tuple(_figure_notes(result, marked=marked)))


def _figure_notes(result: dict, *, marked: bool) -> list[str]:
    protocol, groups = result["protocol"], result["groups"]
    units = f"percent; rsum from 0 to {2 * len(result['k'])}" if RSUM in result["metrics"] else "percent"
    folds = f", mean of {protocol['folds']} galleries" if protocol["folds"] > 1 else ""
    notes = [
        f"{units}; ties count against us; {protocol['images']:,} images, {protocol['captions']:,} captions{folds}",
        f"intervals: {100 * result['level']:g} %, over images with their captions",
    ]
    notes += unbounded_notes(result["metrics"])
    if any(group["spread"] for group in groups):
        medians = [heading_of(name) for name in result["metrics"] if metric_of(name).is_median]
        notes += [f"a {heading} over several seeds has no interval and no test" for heading in medians]
    if any(group["spread"] for group in groups):
        notes.append("±: standard deviation over seeds; intervals of several seeds cover other seeds too")
    if any(len(group["seeds"]) == 1 for group in groups):
        notes.append("a run of one seed stands for itself, not for its settings")
    if marked:
        notes.append("bold: shown to be better than every other")
    models = list(dict.fromkeys(group["model"] for group in groups))
    if len(models) > 1:
        notes.append("models: " + ", ".join(f"{place} {each['model']}" for place, each in enumerate(groups, start=1)))
    return [*notes, *reachable_notes(protocol), *result["remarks"]]


def _differences(result: dict) -> Sheet:
    numbers = {group["name"]: number for number, group in enumerate(result["groups"], start=1)}
    blocks: dict[str, list] = {}
    for pair in result["pairs"]:
        a, b, metric = numbers[pair["a"]], numbers[pair["b"]], pair["metric"]
        verdict = {A_BETTER: f"{a} better", B_BETTER: f"{b} better"}.get(pair["verdict"], pair["verdict"])
        ends = [_figure(metric, end, sign=True) for end in pair["interval"] or ()]
        told = (f"{a} - {b}", _heading(pair["direction"], metric), _figure(metric, pair["difference"], sign=True))
        cells = (*told, " to ".join(ends) or _NONE, _chance(pair["p"]), _chance(pair["p_holm"]), verdict)
        blocks.setdefault(told[0], []).append(tuple(map(Cell, cells)))
    header = ("", "metric", "gain", f"{100 * result['level']:g} % interval", "p", "p (Holm)", VERDICT)
    return Sheet("differences", header, tuple(map(tuple, blocks.values())), tuple(_test_notes(result)))


def _test_notes(result: dict) -> list[str]:
    notes = []
    if result["flips"]:
        notes.append(f"p of two runs: two-sided, paired, {result['flips']:,} sign flips over images")
    repeated = [group for group in result["groups"] if group["spread"]]
    if repeated:
        notes.append("p with several seeds: two-sided, Student's t over images and seeds")
    if repeated and any(group["label"] != ZERO_SHOT for group in result["groups"] if not group["spread"]):
        notes.append("one run against several seeds: it is taken to vary over seeds as they do")
    if any(isinf(metric_of(name).limit) for name in result["metrics"]):
        notes.append("a gain in ranks has no interval")
    notes += [
        f"an interval leaves 0 out where p is at most {1 - result['level']:.3g}",
        f"p (Holm): corrected for the {result['family']} tests here; intervals are not",
    ]
    return [*notes, f"a difference is shown where p (Holm) is at most {result['alpha']:g}"]


def _best(result: dict) -> dict[tuple, str]:
    """Column -> the group that is better than every other, where there is one."""
    wins: dict[tuple, list[str]] = {}
    for pair in result["pairs"]:
        winner = {A_BETTER: pair["a"], B_BETTER: pair["b"]}.get(pair["verdict"])
        wins.setdefault((pair["direction"], pair["metric"]), []).append(winner)
    others = len(result["groups"]) - 1
    return {
        column: group["name"]
        for column, winners in wins.items()
        for group in result["groups"]
        if winners.count(group["name"]) == others
    }


def _columns(result: dict) -> list[tuple[str | None, str]]:
    values = result["groups"][0]["values"]
    columns = [(direction, metric) for direction in ("t2i", "i2t") for metric in values[direction]]
    return columns + ([(None, RSUM)] if RSUM in values else [])


def _of(figures: dict | None, direction: str | None, metric: str):
    if figures is None:
        return None
    return figures[metric] if direction is None else figures[direction][metric]


def _heading(direction: str | None, metric: str) -> str:
    heading = heading_of(metric)
    return heading if direction is None else f"{direction} {heading}"


def _figure(metric: str, value: float, *, sign: bool = False) -> str:
    scaled = scale_of(metric) * value
    digits = 3 if metric == RSUM else 1
    told = f"{scaled:+.{digits}f}" if sign else f"{scaled:.{digits}f}"
    # No sign where nothing but zeros is left.
    return told if any(digit in "123456789" for digit in told) else told.lstrip("+-")


def _chance(p: float | None) -> str:
    if p is None:
        return _NONE
    return "<0.001" if p < 0.001 else f"{p:.3f}"
