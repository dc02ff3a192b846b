"""Training, epoch by epoch."""

from clipret.reporting.pages.chart import Axis, Chart, Line
from clipret.reporting.pages.markup import element, text
from clipret.reporting.pages.parts.part import Part, drawn
from clipret.reporting.pages.pictures import Pictures

_RECALLS = {"val_t2i_R@1": "t2i R@1", "val_i2t_R@1": "i2t R@1"}
# File, title, columns of the history with their names, form of their numbers; the learning rate comes last.
CHARTS = (
    ("loss", "Loss by epoch", {"loss": "loss"}, ".3g"),
    ("validation-rsum", "Validation rsum by epoch", {"val_rsum": "rsum"}, ".2f"),
    ("validation-recall", "Validation R@1 by epoch", _RECALLS, ".0%"),
    ("learning-rate", "Learning rate by epoch", {"lr": "learning rate"}, ".0e"),
)


def _charts(found: dict) -> list[Chart]:
    history, kept = found["history"], (found["result"] or {}).get("kept_epoch")
    marks = [] if kept is None else [(kept, f"kept: {kept}")]
    charts = []
    for file, title, names, form in CHARTS:
        lines = [
            Line(name, *zip(*points, strict=True), kind=number)
            for number, (column, name) in enumerate(names.items(), start=1)
            if (points := [(row["epoch"], row[column]) for row in history if row.get(column) is not None])
        ]
        if lines:
            axes = {"x": Axis("epoch"), "y": Axis(" and ".join(names.values()), form=form)}
            charts.append(Chart(file, title, lines=lines, marks=marks, **axes))
    return charts


def _render(found: dict, pictures: Pictures) -> str:
    charts, history = _charts(found), found["history"]
    if not charts:
        return ""
    said = "Epoch 0 is the head before training." if history and history[0]["epoch"] == 0 else ""
    return element("p", text(said), kind="soft") + drawn(charts)


PART = Part("Training", _render, charts=_charts)
