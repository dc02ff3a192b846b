"""What all forms have in common: nothing of a sheet is lost, and no text is taken for more than text."""

import csv
import io
from html.parser import HTMLParser

import pytest

from clipret.config.comparison import FORMATS
from clipret.reporting import FORMS
from clipret.reporting.sheets import LABEL, Cell, Column, Sheet, heading_cell
from tests.helpers.drawing import drawn

COLUMNS = (LABEL, Column("t2i\nR@1", unit="percent"), Column("", align="left", wrap=True))
SHEET = Sheet(
    "test, protocol split",
    COLUMNS,
    (
        ((heading_cell("a block"),), ("one", Cell(53.0208, ".1f", "47.8–58.1", "bold"), "ok")),
        (("two", Cell(1234, ","), Cell("bad\nworse", emphasis="red")),),
    ),
    ("a note", "another"),
)
HOSTILE = "=1+1 <b>&amp;\"'\\x|*_`[$~^#%{}\x1b[31m\u202e\u061c"
EVERYWHERE = Sheet(
    HOSTILE, (Column(HOSTILE), Column(HOSTILE, unit=HOSTILE)), (((HOSTILE, Cell(HOSTILE, "", HOSTILE)),),), (HOSTILE,)
)


def text_of(form, *sheets):
    return drawn(sheets) if form == "terminal" else FORMS[form](sheets)


@pytest.mark.parametrize("form", FORMS)
def test_every_form_has_all_of_a_sheet(form):
    text = text_of(form, SHEET, SHEET)
    numbers = ("53.0208", "1234") if form == "csv" else ("53.0", "1,234")
    parts = (
        "test, protocol split",
        "a block",
        "one",
        "two",
        "bad",
        "worse",
        "58.1",
        "ok",
        "a note",
        "another",
        *numbers,
    )
    assert all(text.count(part) >= 2 for part in parts)


@pytest.mark.parametrize("form", FORMS)
def test_no_form_shows_control_characters(form):
    text = text_of(form, EVERYWHERE)
    assert not {"\x1b", "\u202e", "\u061c"} & set(text)
    assert "\\x1b" in text.replace("\\textbackslash{}", "\\").replace("\\\\", "\\")


@pytest.mark.parametrize("form", FORMS)
def test_every_form_takes_a_sheet_without_headings_title_notes_and_rows(form):
    assert "value" in text_of(form, Sheet("", (LABEL, LABEL), ((("name", "value"),),)))
    assert isinstance(text_of(form, Sheet("", (LABEL, Column("x")), ())), str)


def test_a_comparison_can_be_written_in_every_form():
    assert set(FORMATS) - {"table", "json"} == set(FORMS) - {"terminal"}


def test_markdown():
    assert FORMS["markdown"]((SHEET,)).splitlines() == [
        "**test, protocol split**",
        "",
        "|  | t2i R@1 |  |",
        "| --- | ---: | --- |",
        "| **a block** |  |  |",
        "| one | **53.0** (47.8–58.1) | ok |",
        "| two | 1,234 | **bad<br>worse** |",
        "",
        "a note  ",
        "another",
    ]
    row = FORMS["markdown"]((EVERYWHERE,)).splitlines()[4]
    assert row.startswith(r"""| =1+1 \<b\>\&amp;"'\\x\|\*\_\`\[\$\~^\#%{}\\x1b\[31m\\u202e\\u061c | """)


@pytest.mark.parametrize(
    ("note", "expected"),
    [
        ("- a", r"\- a"),
        ("---", r"\---"),
        ("=", r"\="),
        ("+ a", r"\+ a"),
        ("1. a", r"1\. a"),
        ("1.5 a", "1.5 a"),
        ("    a", "a"),
    ],
)
def test_a_note_in_markdown_begins_no_list_heading_rule_or_code(note, expected):
    assert FORMS["markdown"]((Sheet("", (LABEL,), (), ("first", note)),)).splitlines()[-1].rstrip() == expected


def test_latex():
    assert FORMS["latex"]((SHEET,)).splitlines() == [
        r"% \usepackage{booktabs}",
        r"\begin{table}",
        r"\centering",
        r"\caption{test, protocol split}",
        r"\begin{tabular}{lrl}",
        r"\toprule",
        r" & t2i R@1 &  \\",
        r"\midrule",
        r"\textbf{a block} &  &  \\",
        r"one & \textbf{53.0} & ok \\",
        r" & {\scriptsize 47.8--58.1} &  \\",
        r"\midrule",
        r"two & 1,234 & \textbf{bad; worse} \\",
        r"\bottomrule",
        r"\end{tabular}",
        r"\par{\footnotesize a note; another\par}",
        r"\end{table}",
    ]
    text = FORMS["latex"](
        (Sheet("", (LABEL,), (((word,),) for word in ("[x]", "*", "--out", "a → b…", "---", "a|`"))),)
    )
    assert [line for line in text.splitlines() if line.endswith(r"\\")] == [
        r"{[}x{]} \\",
        r"{*} \\",
        r"-{}-out \\",
        r"a $\to$ b\ldots{} \\",
        r"-{}-{}- \\",
        r"a\textbar{}\textasciigrave{} \\",
    ]


def test_csv_has_numbers_in_full_intervals_apart_and_no_formulas():
    assert list(csv.reader(io.StringIO(FORMS["csv"]((SHEET,))))) == [
        ["test, protocol split"],
        ["", "t2i R@1 (percent)", "t2i R@1 interval", ""],
        ["a block", "", "", ""],
        ["one", "53.0208", "47.8–58.1", "ok"],
        ["two", "1234", "", "bad\nworse"],
        [],
        ["a note"],
        ["another"],
    ]
    cells = [cell for row in csv.reader(io.StringIO(FORMS["csv"]((EVERYWHERE,)))) for cell in row]
    assert not [cell for cell in cells if cell.startswith("=")]


class Read(HTMLParser):
    """The texts and the tags of a page."""

    def __init__(self, page):
        super().__init__()
        self.texts, self.tags = [], []
        self.feed(page)

    def handle_data(self, data):
        self.texts.append(data)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)


def test_html():
    page = FORMS["html"]((SHEET,))
    assert page.startswith(
        '<!DOCTYPE html>\n<html lang="en">\n<meta charset="utf-8">\n<title>test, protocol split</title>'
    )
    body = page[page.index("<table>") :].splitlines()
    assert body == [
        "<table>",
        "<caption>test, protocol split</caption>",
        '<thead><tr><th class="left"></th><th class="right">t2i R@1 <small>percent</small></th><th class="left"></th>'
        "</tr></thead>",
        "<tbody>",
        '<tr><td class="left"><strong class="bold">a block</strong></td><td class="right"></td><td class="left"></td>'
        "</tr>",
        '<tr><td class="left">one</td><td class="right"><strong class="bold">53.0</strong> <small>47.8–58.1</small>'
        '</td><td class="left">ok</td></tr>',
        "</tbody>",
        "<tbody>",
        '<tr><td class="left">two</td><td class="right">1,234</td><td class="left"><strong class="red">bad<br>worse'
        "</strong></td></tr>",
        "</tbody>",
        "</table>",
        "<p>a note<br>another</p>",
        "</html>",
    ]
    hostile = Read(FORMS["html"]((EVERYWHERE,)))
    assert "b" not in hostile.tags
    escaped = HOSTILE.replace("\x1b", "\\x1b").replace("\u202e", "\\u202e").replace("\u061c", "\\u061c")
    assert hostile.texts.count(escaped) == 7
    assert "<title>a b</title>" in FORMS["html"]((Sheet("a\nb", (LABEL,), ()),))
