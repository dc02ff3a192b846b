"""The curve of wise-ft: a table of alpha against figures, in place of a row of the metrics table for each alpha."""

from rich import box
from rich.table import Table

from clipret.config.evaluation import WISE_FT

_BAR_WIDTH = 20


def without_curve(report: dict) -> dict:
    """metrics.json without the heads of a curve, which has two alphas or more; a single one stays."""
    return _cut(report) | ({"also": [_cut(measured) for measured in report["also"]]} if "also" in report else {})


def curve_tables(report: dict) -> tuple[Table, ...]:
    """metrics.json's curve for each protocol; none where there are fewer than two alphas."""
    tables = (_curve_table({**report, **measured}) for measured in (report, *report.get("also", ())))
    return tuple(table for table in tables if table is not None)


def _cut(measured: dict) -> dict:
    curve = _curve(measured)
    kept = {name: found for name, found in measured["results"].items() if name not in curve}
    return {**measured, "results": kept}


def _curve(measured: dict) -> dict[str, dict]:
    """The curve's heads, by alpha."""
    found = {name: result for name, result in measured["results"].items() if name.startswith(WISE_FT)}
    return found if len(found) > 1 else {}


def _curve_table(measured: dict) -> Table | None:
    curve, protocol = _curve(measured), measured["protocol"]
    if not curve:
        return None
    sums = {name: measured["rsum"][name] for name in curve}
    best, low, span = max(sums, key=sums.get), min(sums.values()), max(sums.values()) - min(sums.values())
    recall = next(name for name in next(iter(curve.values()))["t2i"] if name.startswith("R@"))
    table = Table(
        title=f"wise-ft, {protocol['split']}, protocol {protocol['name']}",
        caption=f"alpha 0 is zero-shot, 1 is trained; {recall} in percent\n"
        f"best alpha {best.removeprefix(WISE_FT)}, chosen on this split: elsewhere expect less",
        caption_justify="left",
        box=box.SIMPLE,
    )
    for heading in ("alpha", f"{recall} t2i", f"{recall} i2t", "rsum"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    for name, directions in curve.items():
        bar = "█" * max(1, round(_BAR_WIDTH * (sums[name] - low) / span)) if span else ""
        table.add_row(
            name.removeprefix(WISE_FT),
            *(f"{100 * directions[direction][recall]:.1f}" for direction in ("t2i", "i2t")),
            f"{sums[name]:.3f}",
            f"{bar} best" if name == best else bar,
        )
    return table
