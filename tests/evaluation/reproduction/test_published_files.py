"""The files of published results have one form, and every table every figure."""

import importlib.resources
import json

import pytest

from clipret.evaluation.reproduction import published_files
from clipret.evaluation.reproduction.published_files import _rows_of, read_published

PLACE = importlib.resources.files("clipret.evaluation.reproduction")
CONTENTS = {name: json.loads((PLACE / name).read_text(encoding="utf-8")) for name in published_files._FILES}
COLUMNS = [f"{side} R@{cut}" for side in ("i2t", "t2i") for cut in (1, 5, 10)]
SHARED = {"source", "dataset", "protocol", "remarks", "unanswerable", "rows"}


def test_every_file_has_parts_that_are_read_and_no_name_twice():
    assert all(
        set(content) <= {"models", "sources", "trainings", "remarks", "rows", "tables"} for content in CONTENTS.values()
    )
    for part in ("models", "sources", "remarks"):
        names = [name for content in CONTENTS.values() for name in content.get(part, ())]
        assert len(names) == len(set(names)), part


def test_every_table_has_every_figure_of_every_row():
    sources, remarks = (read_published()[part] for part in ("sources", "remarks"))
    for table in (table for content in CONTENTS.values() for table in content.get("tables", ())):
        assert set(table) - {"split", "columns", "languages", "remark", "first"} == SHARED
        assert ("columns" in table) != ("languages" in table)
        assert table["source"] in sources
        assert {*table["remarks"].values(), table.get("remark", "gelu")} <= set(remarks)
        assert set(table["remarks"]) | set(table["unanswerable"]) <= set(table["rows"])
        for figures in table["rows"].values():
            if "columns" in table:
                assert len(figures) == len(table["columns"]) == len(COLUMNS)
            else:
                assert list(figures) == COLUMNS
                assert {len(values) for values in figures.values()} == {len(table["languages"])}


def test_a_row_of_several_languages_becomes_one_for_each():
    table = {
        "source": "s",
        "dataset": "d",
        "protocol": "p",
        "remark": "all",
        "languages": ["mean", "de"],
        "remarks": {"b": "own"},
        "unanswerable": ["b"],
        "rows": {"a": {"i2t R@1": [2.0, 3.0], "t2i R@1": [4.0, 5.0]}, "b": {"i2t R@1": [6.0, 7.0]}},
    }
    shared = {"source": "s", "dataset": "d", "protocol": "p", "remark": "all"}
    assert list(_rows_of(table)) == [
        {**shared, "model": "a", "i2t": {"R@1": 2.0}, "t2i": {"R@1": 4.0}, "language": "mean"},
        {**shared, "model": "a", "i2t": {"R@1": 3.0}, "t2i": {"R@1": 5.0}, "language": "de"},
        {**shared, "model": "b", "i2t": {"R@1": 6.0}, "remark": "own", "answerable": False, "language": "mean"},
        {**shared, "model": "b", "i2t": {"R@1": 7.0}, "remark": "own", "answerable": False, "language": "de"},
    ]


def test_a_table_with_a_figure_too_few_is_refused():
    table = {"columns": COLUMNS, "rows": {"a": [1.0] * 5}}
    with pytest.raises(ValueError, match="zip"):
        list(_rows_of(table))
