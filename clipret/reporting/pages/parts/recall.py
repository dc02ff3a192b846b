"""R@K for K from 1 to 100, and how ranks moved."""

from clipret.reporting.pages.charts import Axis, Line, circles_chart, line_chart
from clipret.reporting.pages.markup import element, figure, text
from clipret.reporting.pages.parts.part import Part
from clipret.reporting.pages.pictures import Pictures


def _render(found: dict, pictures: Pictures) -> str:
    recall, charts = found["recall"], []
    for direction in ("t2i", "i2t"):
        lines = [
            Line(name, recall["k"], of["values"], of["low"], of["high"], kind=number)
            for number, (name, directions) in enumerate(recall["heads"].items())
            if (of := directions[direction])
        ]
        title = f"{direction}: R@K, with 95 % intervals over images"
        axes = {"x": Axis("K", log=True), "y": Axis("R@K", form=".0%", high=1)}
        charts.append(figure(line_chart(title, lines, **axes), title))
    said = []
    if len(recall["heads"]) > 1:
        before, *_, after = recall["heads"]
        for direction, changes in found["changes"].items():
            counts = f"{changes['won']:,} better, {changes['lost']:,} worse, {changes['same']:,} the same"
            title = f"{direction}: rank of the first match, {before} against {after}"
            ends = {"form": ",.0f", "log": True, "low": 0.8, "high": changes["gallery"]}
            axes = [Axis(f"rank, {name}", **ends) for name in (before, after)]
            charts.append(figure(circles_chart(title, changes["cells"], x=axes[0], y=axes[1]), f"{title}: {counts}"))
            said.append(f"{direction}: {counts}.")
    return element("p", text(" ".join(said))) + element("div", *charts, kind="charts")


PART = Part("Recall and ranks", _render)
