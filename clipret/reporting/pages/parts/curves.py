"""Training, epoch by epoch."""

from clipret.reporting.pages.charts import Axis, Line, line_chart
from clipret.reporting.pages.markup import element, figure, text
from clipret.reporting.pages.parts.part import Part
from clipret.reporting.pages.pictures import Pictures

_RECALLS = {"val_t2i_R@1": "t2i R@1", "val_i2t_R@1": "i2t R@1"}


def _render(found: dict, pictures: Pictures) -> str:
    history, result = found["history"], found["result"] or {}
    kept = result.get("kept_epoch")
    marks = [] if kept is None else [(kept, f"kept: {kept}")]
    charts = []
    for title, names, form in (
        ("Loss by epoch", {"loss": "loss"}, ".3g"),
        ("Validation rsum by epoch", {"val_rsum": "rsum"}, ".2f"),
        ("Validation R@1 by epoch", _RECALLS, ".0%"),
        ("Learning rate by epoch", {"lr": "learning rate"}, ".0e"),
    ):
        lines = [
            Line(name, *zip(*points, strict=True), kind=number)
            for number, (column, name) in enumerate(names.items(), start=1)
            if (points := [(row["epoch"], row[column]) for row in history if row.get(column) is not None])
        ]
        if lines:
            axes = {"x": Axis("epoch"), "y": Axis(" and ".join(names.values()), form=form)}
            charts.append(figure(line_chart(title, lines, marks=marks, **axes), title))
    if not charts:
        return ""
    said = "Epoch 0 is the head before training." if history and history[0]["epoch"] == 0 else ""
    return element("p", text(said), kind="soft") + element("div", *charts, kind="charts")


PART = Part("Training", _render)
