"""wise-ft: heads between the untrained one and the trained one."""

import shlex

from clipret.reporting.pages.chart import Axis, Chart, Line
from clipret.reporting.pages.markup import element, text
from clipret.reporting.pages.parts.part import Part, drawn
from clipret.reporting.pages.pictures import Pictures


def _charts(found: dict) -> list[Chart]:
    curve = found["mixing"]
    if curve is None:
        return []
    x, weights = Axis("weight of the trained head", form=".1f", low=0, high=1), curve["weights"]
    recalls = [
        Line(f"{name} R@1", weights, curve[name], kind=kind) for kind, name in enumerate(("t2i", "i2t"), start=1)
    ]
    sums = [Line("rsum", weights, curve["rsum"], kind=1)]
    title = f"{curve['split']}: rsum by the weight of the trained head"
    return [
        Chart("wise-ft-rsum", title, lines=sums, x=x, y=Axis("rsum", form=".2f")),
        Chart("wise-ft-recall", title.replace("rsum", "R@1"), lines=recalls, x=x, y=Axis("R@1", form=".0%")),
    ]


def _render(found: dict, pictures: Pictures) -> str:
    curve = found["mixing"]
    if curve is None:
        return ""
    images = f"the {curve['images']:,} images of {curve['split']}"
    if curve["images"] < curve["of"]:
        images = f"{curve['images']:,} of the {curve['of']:,} images of {curve['split']}, evenly spaced"
    best = max(zip(curve["rsum"], curve["weights"], strict=True))
    said = (
        f"Heads on the line from the untrained one (0) to the trained one (1), measured on {images}. The best rsum, "
        f"{best[0]:.3f}, is at {best[1]:g}."
    )
    if 0 < best[1] < 1:
        said += f" That head is measured with: clipret eval --head {shlex.quote(found['run'])} --wise-ft {best[1]:g}"
    return element("p", text(said), kind="soft") + drawn(_charts(found))


PART = Part("Between the untrained head and the trained one", _render, charts=_charts)
