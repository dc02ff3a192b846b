"""The curve of wise-ft: a table of alpha against figures, instead of a column of the metrics table for each alpha."""

from clipret.config import DIRECTIONS
from clipret.config.evaluation import WISE_FT
from clipret.metrics import RSUM
from clipret.reporting.figures import figure, unit_of
from clipret.reporting.sheets import Column, Sheet

_BAR_WIDTH = 20


def without_curve(report: dict) -> dict:
    """metrics.json without the heads of a curve, which has two alphas or more; a single one stays."""
    return _cut(report) | ({"also": [_cut(measured) for measured in report["also"]]} if "also" in report else {})


def curve_sheets(report: dict) -> tuple[Sheet, ...]:
    """metrics.json's curve for each protocol; none where there are fewer than two alphas."""
    return tuple(_sheet({**report, **measured}) for measured in (report, *report.get("also", ())) if _curve(measured))


def _cut(measured: dict) -> dict:
    curve = _curve(measured)
    return {**measured, "results": {name: head for name, head in measured["results"].items() if name not in curve}}


def _curve(measured: dict) -> dict[str, dict]:
    """The curve's heads, by name; none where there is a single alpha."""
    heads = {name: head for name, head in measured["results"].items() if name.startswith(WISE_FT)}
    return heads if len(heads) > 1 else {}


def _sheet(measured: dict) -> Sheet:
    curve, protocol = _curve(measured), measured["protocol"]
    baseline = next(iter(measured["results"]))
    sums = {name: measured[RSUM][name] for name in curve}
    best, low, span = max(sums, key=sums.get), min(sums.values()), max(sums.values()) - min(sums.values())
    recall = next(name for name in next(iter(curve.values()))["t2i"] if name.startswith("R@"))
    rows = []
    for name, results in curve.items():
        bar = "█" * max(1, round(_BAR_WIDTH * (sums[name] - low) / span)) if span else ""
        recalls = (figure(recall, results[direction][recall]) for direction in DIRECTIONS)
        mark = f"{bar} best" if name == best else bar
        rows.append((name.removeprefix(WISE_FT), *recalls, figure(RSUM, sums[name]), mark))
    recalls = (Column(f"{recall} {direction}", unit=unit_of(recall)) for direction in DIRECTIONS)
    return Sheet(
        f"wise-ft, {protocol['split']}, protocol {protocol['name']}",
        (Column("alpha"), *recalls, Column(RSUM), Column(align="left")),
        (tuple(rows),),
        (
            f"alpha 0 is {baseline}, 1 is trained; {recall} in percent",
            f"best alpha {best.removeprefix(WISE_FT)}, chosen on this split: expect less on other data",
        ),
    )
