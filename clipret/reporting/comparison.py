"""What a comparison shows: figures with intervals, and the test of every pair.

CSV is made for programs: a line a figure, with plain numbers.
"""

from dataclasses import replace

from clipret.config.comparison import A_BETTER, B_BETTER, BASELINES, NO_TEST, NOT_SHOWN
from clipret.evaluation.caveats import reachable_notes
from clipret.metrics import RSUM, heading_of, metric_of
from clipret.reporting.figures import figure, is_unbounded, limits, unbounded_notes, unit_of
from clipret.reporting.sheets import LABEL, Cell, Column, Sheet

_RECORD = ("kind", "a", "b", "label", "seeds", "direction", "metric", "value", "low", "high", "spread", "p", "p_holm",
           "verdict")  # fmt: skip
_NONE = "–"
# Pairs that are shown whole in a terminal.
_MOST_PAIRS = 10


def comparison_sheets(result: dict, *, short: bool = False) -> tuple[Sheet, Sheet]:
    """What compare returned: the figures of the groups, and the differences of the pairs.

    short  whether only the differences that are shown are listed when there are many pairs
    """
    return _figures(result), _differences(result, short=short)


def comparison_records(result: dict) -> tuple[Sheet]:
    """A row for each figure of a group and each difference of a pair, fractions as they are."""
    records = []
    for group in result["groups"]:
        for direction, metric in _columns(result):
            value, interval, spread = _measured(group, direction, metric)
            low, high = interval or (None, None)
            records.append({
                "kind": "group", "a": group["name"], "label": group["label"], "seeds": len(group["seeds"]),
                "direction": direction, "metric": metric, "value": value, "low": low, "high": high, "spread": spread,
            })  # fmt: skip
    for pair in result["pairs"]:
        low, high = pair["interval"] or (None, None)
        records.append({"kind": "pair", **pair, "value": pair["difference"], "low": low, "high": high})
    rows = tuple(tuple(record.get(name) for name in _RECORD) for record in records)
    return (Sheet("", tuple(map(Column, _RECORD)), (rows,)),)


def _figures(result: dict) -> Sheet:
    protocol, columns = result["protocol"], _columns(result)
    best = _best(result)
    rows = []
    for number, group in enumerate(result["groups"], start=1):
        seeds = f" ({len(group['seeds'])} seeds)" if group["spread"] else ""
        cells = [Cell(f"{number} {group['label']}{seeds}")]
        for direction, metric in columns:
            emphasis = "bold" if best.get((direction, metric)) == group["name"] else ""
            cells.append(_figure(metric, *_measured(group, direction, metric), emphasis=emphasis))
        rows.append(tuple(cells))
    header = (LABEL, *(Column(_heading(*column, between="\n"), unit=unit_of(column[1])) for column in columns))
    title = f"{protocol['split']}, protocol {protocol['name']}"
    marked = any(cell.emphasis for row in rows for cell in row)
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
    models = [f"{number} {group['model']}" for number, group in enumerate(groups, start=1)]
    if len({group["model"] for group in groups}) > 1:
        notes.append(f"models: {', '.join(models)}")
    return [*notes, *reachable_notes(protocol), *result["remarks"]]


def _differences(result: dict, *, short: bool) -> Sheet:
    numbers = {group["name"]: number for number, group in enumerate(result["groups"], start=1)}
    blocks: dict[str, list] = {}
    for pair in result["pairs"]:
        a, b, metric = numbers[pair["a"]], numbers[pair["b"]], pair["metric"]
        verdict = {A_BETTER: f"{a} better", B_BETTER: f"{b} better"}.get(pair["verdict"], pair["verdict"])
        ends = " to ".join(_signed(metric, end).text for end in pair["interval"] or ()) or _NONE
        blocks.setdefault(f"{a} - {b}", []).append((
            f"{a} - {b}", _heading(pair["direction"], metric), _signed(metric, pair["difference"]), ends,
            _chance(pair["p"]), _chance(pair["p_holm"]), verdict,
        ))  # fmt: skip
    notes = _test_notes(result)
    if short and len(blocks) > _MOST_PAIRS:
        notes = [f"of {len(blocks)} pairs only the differences that are shown; all with --json", *notes]
        # The verdict is the last cell.
        shown = [row for rows in blocks.values() for row in rows if row[-1] not in (NOT_SHOWN, NO_TEST)]
        blocks = {"": shown} if shown else {}
    names = ("metric", "gain", f"{100 * result['level']:g} % interval", "p", "p\n(Holm)")
    columns = (LABEL, *map(Column, names), Column("verdict", wrap=True))
    return Sheet("differences", columns, tuple(map(tuple, blocks.values())), tuple(notes))


def _test_notes(result: dict) -> list[str]:
    notes = []
    if result["flips"]:
        notes.append(f"p of two runs: two-sided, paired, {result['flips']:,} sign flips over images")
    repeated = [group for group in result["groups"] if group["spread"]]
    if repeated:
        notes.append("p with several seeds: two-sided, Student's t over images and seeds")
    if repeated and any(
        group["label"].partition("@")[0] not in BASELINES for group in result["groups"] if not group["spread"]
    ):
        notes.append("one run against several seeds: it is assumed to vary over seeds as they do")
    if any(map(is_unbounded, result["metrics"])):
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


def _measured(group: dict, direction: str | None, metric: str) -> tuple[float, list[float] | None, float | None]:
    """A group's value of a column, with its interval and its spread over seeds."""
    figures = (group[name] for name in ("values", "intervals", "spread"))
    value, interval, spread = (None if part is None else (part if direction is None else part[direction])[metric]
                               for part in figures)  # fmt: skip
    return value, interval, spread


def _heading(direction: str | None, metric: str, *, between: str = " ") -> str:
    return heading_of(metric) if direction is None else f"{direction}{between}{heading_of(metric)}"


def _figure(metric: str, value: float, interval: list | None, spread: float | None, *, emphasis: str) -> Cell:
    ends = "–".join(limits(metric, interval, digits=3 if metric == RSUM else 1))
    cell = replace(figure(metric, value, interval=ends), emphasis=emphasis)
    return cell if spread is None else replace(cell, value=f"{cell.text}±{figure(metric, spread).text}")


def _signed(metric: str, value: float) -> Cell:
    """A difference, with no sign where nothing but zeros is left."""
    cell = figure(metric, value, sign=True)
    return cell if cell.text.strip("+-0.") else figure(metric, 0.0)


def _chance(p: float | None) -> str:
    if p is None:
        return _NONE
    return "<0.001" if p < 0.001 else f"{p:.3f}"
