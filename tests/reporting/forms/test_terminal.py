from rich.cells import cell_len

from clipret.reporting.sheets import LABEL, Cell, Column, Sheet
from tests.helpers.drawing import drawn, words

FIGURES = Cell(53.0, ".1f", "[47.8, 58.1]")


def test_intervals_stand_below_or_beside():
    columns, rows = (LABEL, Column("trained")), ((("R@1", FIGURES),),)
    below = words(drawn([Sheet("t", columns, rows)]))
    assert below[below.index("R@1 53.0") + 1] == "[47.8, 58.1]"
    assert "R@1 53.0 [47.8, 58.1]" in words(drawn([Sheet("t", columns, rows, beside=True)]))


def test_space_between_columns_is_given_up_before_columns_are():
    sheet = Sheet("t", (LABEL, *map(Column, "abcd")), ((("label", *["x" * 10] * 4),),))
    wide, narrow, parts = (drawn([sheet], width=width) for width in (60, 56, 40))
    assert "x   x" in wide
    assert "x  x" in narrow
    assert "x   x" not in narrow
    assert (wide.count("label"), narrow.count("label"), parts.count("label")) == (1, 1, 2)
    assert parts.count("x" * 10) == 4


def test_texts_are_broken_and_numbers_are_not():
    columns = (LABEL, Column("n"), Column("text", align="left", wrap=True))
    sheet = Sheet("t", columns, ((("label", 123456789, "word " * 20),),))
    text = drawn([sheet], width=40)
    assert max(map(cell_len, text.splitlines())) <= 40
    assert "123456789" in text
    assert "…" not in text
    assert text.count("word") == 20


def test_lines_are_cut_to_the_width_of_their_column_and_a_file_keeps_its_end():
    column = Column("", align="left", wrap=True, width=10)
    lines = ("one two three four", "folder/" * 5 + "a.png", "short", "狗 " * 9)
    shown = words(drawn([Sheet("", (column,), (tuple((line,) for line in lines),))]))
    assert shown[1:5] == ["one two t…", "…der/a.png", "short", "狗 狗 狗 …"]


def test_notes_are_not_broken_to_the_width_of_the_table_and_sheets_stand_apart():
    sheet = Sheet("a title longer than the table", (LABEL,), ((("x",),),), ("a note that is longer than the table",))
    lines = drawn([sheet, sheet]).splitlines()
    assert lines.count("a note that is longer than the table") == lines.count("a title longer than the table") == 2
    assert lines[lines.index("a note that is longer than the table") + 1 :][0] == ""


def test_texts_are_no_markup():
    hostile = "[bold]x[/] :smile: [/]"
    text = drawn([Sheet(hostile, (Column(hostile),), (((Cell(hostile, "", hostile),),),), (hostile,))])
    assert text.count(hostile) == 5
