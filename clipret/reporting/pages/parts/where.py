"""Where it is gained, and where not."""

from clipret.reporting.forms.html import html_table
from clipret.reporting.pages.markup import element, scrolling, text
from clipret.reporting.pages.parts.part import Part
from clipret.reporting.pages.pictures import Pictures
from clipret.reporting.sheets import LABEL, Cell, Column, Sheet

_LABELS = {"caption_length": "words of a caption", "positives": "matching items"}


def _render(found: dict, pictures: Pictures) -> str:
    failures, tables = found["failures"], []
    heads = failures["heads"]
    columns = (LABEL, Column("queries"), *map(Column, heads), Column("gain"))
    for direction, of in failures["directions"].items():
        blocks = [(_row("all", of["queries"], [of["overall"][head]["R@1"] for head in heads]),)]
        for name, label in _LABELS.items():
            bins = of["breakdown"][name]["bins"]
            rows = [
                _row(f"{label}: {_span(part)}", part["queries"], [part["results"][head]["R@1"] for head in heads])
                for part in bins
            ]
            if len(bins) > 1:
                blocks.append(tuple(rows))
        words = [
            _row(f"first word: {part['word']}", part["queries"], [part["before"], part["after"]][-len(heads) :])
            for part in found["first_words"][direction]
        ]
        if words:
            blocks.append(tuple(words))
        tables.append(html_table(Sheet(f"{direction}: R@1, percent", columns, tuple(blocks))))
    said = "Groups of fewer than 30 queries say little: each query changes them by more than three points."
    return scrolling(*tables) + element("p", text(said), kind="soft") + _objects(found["objects"], heads)


def _objects(objects: dict, heads: list[str]) -> str:
    """By the objects in an image; none but for COCO, with its annotations of objects."""
    parts = [
        element("p", text(f"Objects are not known from {path}: {reason}."), kind="soft")
        for path, reason in objects["unread"].items()
    ]
    columns = (LABEL, Column("images"), Column("queries"), *map(Column, heads), Column("gain"))
    tables = [
        html_table(Sheet(f"{direction}: R@1 by object, percent", columns, (tuple(map(_object, entries)),)))
        for direction, entries in objects["categories"].items()
        if entries
    ]
    if tables:
        said = (
            "Images with an object of the category, and their captions; an image may be in several. In brackets: 95 % "
            "interval of the gain over images. Of many categories some are up or down by chance."
        )
        summary = element("summary", text("By the objects in an image, of 30 images or more; the largest gain first"))
        content = scrolling(*tables) + element("p", text(said), kind="soft")
        parts.append(f"<details>{summary}{content}</details>")
    return "".join(parts)


def _object(entry: dict) -> tuple:
    values = [value for value in (entry["before"], entry["after"]) if value is not None]
    label, queries, *cells = _row(entry["name"], entry["queries"], values)
    if len(values) > 1:
        ends = f"[{100 * entry['low']:+.1f}, {100 * entry['high']:+.1f}]"
        cells[-1] = Cell(cells[-1].value, "+.1f", interval=ends)
    return (label, Cell(entry["images"], ","), queries, *cells)


def _row(label: str, queries: int, values: list[float]) -> tuple:
    gain = Cell(100 * (values[-1] - values[0]), "+.1f") if len(values) > 1 else Cell()
    return (label, Cell(queries, ","), *(Cell(100 * value, ".1f") for value in values), gain)


def _span(part: dict) -> str:
    low, high = f"{part['low']:.3g}", f"{part['high']:.3g}"
    return low if low == high else f"{low} to {high}"


PART = Part("Where", _render)
