"""R@K for K from 1 to 100, and how ranks moved."""

from clipret.reporting.pages.chart import Axis, Chart, Line
from clipret.reporting.pages.markup import element, text
from clipret.reporting.pages.parts.part import Part, drawn
from clipret.reporting.pages.pictures import Pictures


def _charts(found: dict) -> list[Chart]:
    recall, charts = found["recall"], []
    for direction in ("t2i", "i2t"):
        lines = [
            Line(name, recall["k"], of["values"], of["low"], of["high"], kind=number)
            for number, (name, directions) in enumerate(recall["heads"].items())
            if (of := directions[direction])
        ]
        title = f"{direction}: R@K, with 95 % intervals over images"
        axes = {"x": Axis("K", log=True), "y": Axis("R@K", form=".0%", high=1)}
        charts.append(Chart(f"recall-{direction}", title, lines=lines, **axes))
    if len(recall["heads"]) > 1:
        before, *_, after = recall["heads"]
        for direction, changes in found["changes"].items():
            title = f"{direction}: rank of the first match, {before} against {after}"
            ends = {"form": ",.0f", "log": True, "low": 0.8, "high": changes["gallery"]}
            axes = {"x": Axis(f"rank, {before}", **ends), "y": Axis(f"rank, {after}", **ends)}
            caption = f"{title}: {_counts(changes)}"
            charts.append(Chart(f"ranks-{direction}", title, cells=changes["cells"], caption=caption, **axes))
    return charts


def _counts(changes: dict) -> str:
    return f"{changes['won']:,} better, {changes['lost']:,} worse, {changes['same']:,} the same"


def _render(found: dict, pictures: Pictures) -> str:
    said = ""
    if len(found["recall"]["heads"]) > 1:
        said = " ".join(f"{direction}: {_counts(changes)}." for direction, changes in found["changes"].items())
    return element("p", text(said)) + drawn(_charts(found))


PART = Part("Recall and ranks", _render, charts=_charts)
