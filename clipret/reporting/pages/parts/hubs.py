"""Items that turn up for many queries."""

from clipret.reporting.forms.html import html_table
from clipret.reporting.pages.markup import element, text
from clipret.reporting.pages.parts.part import Part
from clipret.reporting.pages.pictures import Pictures
from clipret.reporting.sheets import LABEL, Cell, Column, Sheet

_SHOWN = 10
_ITEMS = {"t2i": "images", "i2t": "captions"}


def _render(found: dict, pictures: Pictures) -> str:
    failures, parts = found["failures"], []
    top, heads = failures["top"], failures["heads"]
    for direction, of in failures["directions"].items():
        hubs = of["hubs"]
        rows = [
            (label, *(_cell(hubs[head][name], form) for head in heads))
            for label, name, form in (
                (f"skewness of N_{top}", "skewness", ".2f"),
                (f"in no top {top}", "never_retrieved_share", ".1%"),
                ("share of the top slots that the most frequent 1 % take", "top_share", ".1%"),
            )
        ]
        title = f"{direction}: {_ITEMS[direction]} in the top {top} of many queries"
        parts.append(html_table(Sheet(title, (LABEL, *map(Column, heads)), (tuple(rows),))))
        drawn = []
        for hub in hubs[heads[-1]]["largest"][:_SHOWN]:
            counts = ", ".join(f"{head} {hub['counts'][head]:,}" for head in heads)
            name = hub.get("caption") or hub["file"]
            content = pictures.of(hub) if direction == "t2i" else ""
            drawn.append(element("li", content, element("span", text(f"{name}: {counts}"))))
        parts.append(element("ul", *drawn, kind="items" if direction == "t2i" else "items captions"))
    return "".join(parts)


def _cell(value: float, form: str) -> Cell:
    shown = format(value, form)
    # No sign where nothing but zeros is left.
    return Cell(abs(value) if shown.startswith("-") and not shown.strip("-0.%") else value, form)


PART = Part("Hubs", _render)
