"""The files of published figures, read as one: rows that were written by hand, and tables that a script wrote."""

import importlib.resources
import json
from collections.abc import Iterator

# The first by hand; scripts/published_figures.py writes the others.
_FILES = ("published.json", "published_open_clip.json", "published_multilingual.json")


def read_published() -> dict:
    """{"models", "sources", "trainings", "remarks": by name, "rows": of the files and of the tables in them}.

    A table has in "rows" the figures of every model: in the order of its "columns", or, where it has "languages", by
    column a list in their order. Its other fields are those of all its rows, but "remarks", which are by model, and
    "unanswerable", a list of models.
    """
    content = {"models": {}, "sources": {}, "trainings": {}, "remarks": {}, "rows": []}
    for name in _FILES:
        text = (importlib.resources.files(__package__) / name).read_text(encoding="utf-8")
        for part, entries in json.loads(text).items():
            if part == "tables":
                content["rows"] += [row for table in entries for row in _rows_of(table)]
            elif part == "rows":
                content["rows"] += entries
            else:
                content[part] |= entries
    return content


def _rows_of(table: dict) -> Iterator[dict]:
    languages, columns = table.get("languages"), table.get("columns")
    shared = {key: table[key] for key in ("source", "dataset", "split", "protocol", "first", "remark") if key in table}
    for model, figures in table["rows"].items():
        row = {**shared, "model": model}
        if model in table.get("remarks", ()):
            row["remark"] = table["remarks"][model]
        if model in table.get("unanswerable", ()):
            row["answerable"] = False
        if languages is None:
            yield row | _by_direction(dict(zip(columns, figures, strict=True)))
            continue
        for place, language in enumerate(languages):
            yield (
                row
                | _by_direction({column: values[place] for column, values in figures.items()})
                | {"language": language}
            )


def _by_direction(figures: dict[str, float]) -> dict[str, dict[str, float]]:
    """Of {"i2t R@1": figure}, {"i2t": {"R@1": figure}}."""
    directions: dict[str, dict[str, float]] = {}
    for column, value in figures.items():
        direction, _, metric = column.partition(" ")
        directions.setdefault(direction, {})[metric] = value
    return directions
