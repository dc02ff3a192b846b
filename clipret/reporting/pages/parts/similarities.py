"""Cosines of pairs, and what they say."""

from clipret.reporting.forms.html import html_table
from clipret.reporting.pages.chart import Axis, Chart, Line
from clipret.reporting.pages.markup import element, text
from clipret.reporting.pages.parts.part import Part, drawn
from clipret.reporting.pages.pictures import Pictures
from clipret.reporting.sheets import LABEL, Cell, Column, Sheet

_PAIRS = (("matching", 1), ("other", 0))


def _charts(found: dict) -> list[Chart]:
    charts, config = [], found["config"]["config"]
    margin = config.get("margin") if config.get("loss") == "margin" else None
    marks = [(margin, f"margin {margin:g}")] if isinstance(margin, int | float) else []
    for place, (head, of) in enumerate(found["similarities"].items()):
        lines = [Line(f"{name} pairs", of["edges"][:-1], of[name], kind=kind, stepped=True) for name, kind in _PAIRS]
        axes = {"x": Axis("cosine", form=".1f", low=-1, high=1), "y": Axis("share of the pairs", form=".0%", low=0)}
        title = f"{head}: cosines of matching and other pairs"
        charts.append(Chart(f"similarities-{place}", title, lines=lines, marks=marks if place else (), **axes))
    lines = []
    for number, (head, of) in enumerate(found["similarities"].items()):
        middles = [(part["low"] + part["high"]) / 2 for part in of["calibration"]]
        lines.append(Line(head, middles, [part["right"] for part in of["calibration"]], kind=number))
    title = "t2i: share of queries whose best image is right, by its cosine"
    axes = {"x": Axis("cosine of the best image", form=".2f"), "y": Axis("right", form=".0%", low=0, high=1)}
    caption = f"{title}, in ten groups of equal size"
    return [*charts, Chart("calibration", title, lines=lines, caption=caption, **axes)]


def _render(found: dict, pictures: Pictures) -> str:
    rows = [(head, Cell(of["gap"], ".3f")) for head, of in found["similarities"].items()]
    sheet = Sheet("Distance between the centres of images and captions", (LABEL, Column("distance")), (tuple(rows),))
    said = "A smaller distance is not better by itself: only ranks decide what is found."
    return drawn(_charts(found)) + html_table(sheet) + element("p", text(said), kind="soft")


PART = Part("Similarities", _render, charts=_charts)
