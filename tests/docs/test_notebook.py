"""The notebook runs, cell for cell, on the demo's data."""

import json
import re

import pytest

from tests.helpers.pages import DOCS

NOTEBOOK = json.loads((DOCS / "clipret.ipynb").read_text(encoding="utf-8"))
CELLS = ["".join(cell["source"]) for cell in NOTEBOOK["cells"] if cell["cell_type"] == "code"]


def test_the_notebook_has_three_cells_without_outputs_and_installs_in_the_first():
    assert NOTEBOOK["nbformat"] == 4
    assert len(CELLS) == 3
    assert all(cell["outputs"] == [] for cell in NOTEBOOK["cells"] if cell["cell_type"] == "code")
    assert re.findall(r"^[%!].*$", "\n".join(CELLS), flags=re.MULTILINE) == ['%pip install -q "{SOURCE}[demo]"']


@pytest.mark.ci
def test_the_notebook_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    names = {}
    for number, cell in enumerate(CELLS):
        # What is installed already is what runs this test.
        code = re.sub(r"^[%!].*$", "", cell, flags=re.MULTILINE)
        exec(compile(code, f"cell {number}", "exec"), names)
    out = capsys.readouterr().out
    assert "runs/0001-margin-linear t2i R@1 50.9% -> " in out
    assert len(re.findall(r"rsum [+-]0\.\d{3}, p \d\.\d{3}, ", out)) == 3
