"""A new section of a report is one file and one row."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

import clipret.reporting
from clipret.reporting import FORMS, SECTIONS, later
from tests.helpers.drawing import drawn

SECTION = '''
"""How often a caption is there."""

from clipret.reporting.sheets import LABEL, Cell, Column, Sheet


def repeated_sheets(result):
    """The captions of a result, each with its count."""
    rows = tuple((caption, Cell(count, ",")) for caption, count in result["captions"].items())
    return (Sheet("repeated captions", (LABEL, Column("times")), (rows,), ("counted byte for byte",)),)
'''


@pytest.fixture
def repeated(tmp_path, monkeypatch):
    """The file in the package, and its row in the table."""
    (tmp_path / "repeated.py").write_text(SECTION)
    monkeypatch.setattr(clipret.reporting, "__path__", [*clipret.reporting.__path__, str(tmp_path)])
    monkeypatch.setitem(SECTIONS, "repeated", later("repeated:repeated_sheets"))
    yield
    sys.modules.pop("clipret.reporting.repeated", None)


@pytest.mark.parametrize("form", FORMS)
def test_a_new_section_is_shown_in_every_form(repeated, form):
    sheets = SECTIONS["repeated"]({"captions": {"a dog": 1234, "a <cat>": 2}})
    text = drawn(sheets) if form == "terminal" else FORMS[form](sheets)
    assert all(word in text for word in ("repeated captions", "times", "a dog", "counted byte for byte"))
    assert ("1234" if form == "csv" else "1,234") in text


def test_every_row_names_a_function_that_is_there():
    for table in (SECTIONS, FORMS):
        for entry in table.values():
            with pytest.raises(TypeError, match=r"missing \d+ required positional argument"):
                entry()


def test_the_tables_import_nothing_before_they_are_used():
    check = (
        "import sys, clipret.reporting\n"
        "loaded = {'rich', 'numpy', 'torch', 'clipret.reporting.sheets'} & set(sys.modules)\n"
        "assert not loaded, loaded"
    )
    subprocess.run([sys.executable, "-c", check], check=True, timeout=120)


def test_only_the_command_line_and_reporting_know_rich():
    package = Path(clipret.__file__).parent
    sources = {path.relative_to(package).as_posix(): path.read_text(encoding="utf-8") for path in package.rglob("*.py")}
    importers = {
        name for name, source in sources.items() if re.search(r"^\s*(import|from) rich\b", source, re.MULTILINE)
    }
    assert {name for name in importers if not name.startswith("cli/")} == {
        "reporting/data.py",
        "reporting/forms/terminal.py",
    }
