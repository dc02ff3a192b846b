"""What others published of the same model by the same protocol."""

from clipret.reporting.forms.html import html_table
from clipret.reporting.pages.markup import element, scrolling, text
from clipret.reporting.pages.parts.part import Part
from clipret.reporting.pages.pictures import Pictures
from clipret.reporting.sheets import LABEL, Cell, Column, Sheet


def _render(found: dict, pictures: Pictures) -> str:
    rows = found["published"]
    if not rows:
        return ""
    names = list(dict.fromkeys(name for row in rows for figures in row["figures"].values() for name in figures))
    pairs = [(direction, name) for direction in ("t2i", "i2t") for name in names]
    ours = [
        (f"here, {head}", *(_cell(of[direction].get(name), 100) for direction, name in pairs))
        for head, of in found["metrics"]["results"].items()
    ]
    theirs = [
        (f"{row['source']}, {row['method']}", *(_cell(row["figures"].get(side, {}).get(name)) for side, name in pairs))
        for row in rows
    ]
    columns = (LABEL, *(Column(f"{direction} {name}") for direction, name in pairs))
    sheet = Sheet("percent", columns, (tuple(ours), tuple(theirs)))
    said = (
        "Whether prompt and cleaning of captions are theirs, and what explains a difference, says: clipret reproduce."
    )
    return scrolling(html_table(sheet)) + element("p", text(said), kind="soft")


def _cell(value: float | None, factor: int = 1) -> Cell:
    return Cell() if value is None else Cell(factor * value, ".1f")


PART = Part("Published figures", _render)
