"""What a report on a sweep has beside that on its best run."""

from clipret.evaluation.findings.sweep import find_effects, find_front
from clipret.reporting import SECTIONS
from clipret.reporting.forms.html import html_table
from clipret.reporting.pages.chart import Axis
from clipret.reporting.pages.charts import parallel_chart, points_chart
from clipret.reporting.pages.markup import element, figure, scrolling, text
from clipret.reporting.sheets import LABEL, Cell, Column, Sheet

_MOST_LINES = 300


def sweep_parts(result: dict) -> list[tuple[str, str]]:
    """(heading, HTML) of the leaderboard, the effect of each setting, and both directions of every run.

    result  what sweep returned
    """
    parts = [
        ("Leaderboard", scrolling(*map(html_table, SECTIONS["sweep"](result)))),
        ("What the settings do", _effects(result) + _lines(result)),
        ("Both directions", _front(result)),
    ]
    return [part for part in parts if part[1]]


def _effects(result: dict) -> str:
    effects, blocks = find_effects(result), []
    for name in result["varied"]:
        rows = [
            (f"{name.replace('_', ' ')} {effect['value']}", Cell(effect["configurations"], ","), _effect(effect))
            for effect in effects
            if effect["setting"] == name
        ]
        if rows:
            blocks.append(tuple(rows))
    if not blocks:
        return ""
    columns = (LABEL, Column("configurations"), Column("effect on val rsum"))
    said = (
        "The mean of the configurations with a value, less that of all, averaged over seeds; in brackets 95 % "
        "intervals over seeds. An effect is that of the other settings' mixture in this sweep."
    )
    return scrolling(html_table(Sheet("", columns, tuple(blocks), beside=True))) + element("p", text(said), kind="soft")


def _effect(effect: dict) -> Cell:
    ends = "" if effect["low"] is None else f"[{effect['low']:+.3f}, {effect['high']:+.3f}]"
    return Cell(effect["effect"], "+.3f", interval=ends)


def _lines(result: dict) -> str:
    entries = [entry for entry in result["configurations"] if entry["val_rsum"] is not None][:_MOST_LINES]
    names = result["varied"]
    if len(names) < 2 or len(entries) < 2:
        return ""
    axes = [(name.replace("_", " "), _in_order({entry["settings"][name] for entry in entries})) for name in names]
    lines = [([str(entry["settings"][name]) for name in names], entry["val_rsum"]["mean"]) for entry in entries]
    title = "Configurations by their settings; the last axis is val rsum"
    return element("div", figure(parallel_chart(title, axes, lines, value="val rsum"), title), kind="charts wide")


def _in_order(values: set) -> list[str]:
    """Numbers by their size, then words."""
    numbers = sorted(value for value in values if isinstance(value, int | float))
    return [*map(str, numbers), *sorted(str(value) for value in values if not isinstance(value, int | float))]


def _front(result: dict) -> str:
    points = find_front(result)
    if len(points) < 2:
        return ""
    best = sorted((point for point in points if point["best"]), key=lambda point: -point["t2i"])
    rows = [(point["name"], Cell(100 * point["t2i"], ".1f"), Cell(100 * point["i2t"], ".1f")) for point in best]
    columns = (Column("run", align="left"), Column("t2i"), Column("i2t"))
    table = html_table(Sheet("Runs that no other beats in both directions: val R@1, percent", columns, (tuple(rows),)))
    title = "val R@1 of every run, t2i against i2t"
    drawn = [(point["t2i"], point["i2t"], point["name"], 1 if point["best"] else 0) for point in points]
    axes = {"x": Axis("t2i R@1", form=".1%"), "y": Axis("i2t R@1", form=".1%")}
    legend = [("no run beats it in both", 1), ("others", 0)]
    return element("div", figure(points_chart(title, drawn, legend=legend, **axes), title), kind="charts") + scrolling(
        table
    )
