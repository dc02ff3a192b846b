"""Text of files and users as people see it."""

import json

import pytest

from clipret.machine.escaping import csv_cell, visible, visible_json


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("two dogs, 2 × café 犬 🐕", "two dogs, 2 × café 犬 🐕"),
        ("a\n\tb", "a\n\tb"),
        ("\x1b]0;title\x07\x1b[2J", r"\x1b]0;title\x07\x1b[2J"),
        ("a\rb\x00\x7f", r"a\x0db\x00\x7f"),
        ("\x9b31m", r"\x9b31m"),
        ("a\u202eb\u2066c\u2028d\ufeff", r"a\u202eb\u2066c\u2028d\ufeff"),
        ("half \ud800", r"half \ud800"),
    ],
)
def test_what_a_terminal_obeys_or_hides_is_written_out(text, expected):
    assert visible(text) == expected


@pytest.mark.parametrize("text", ["\x1b[2J", "\x9b31m", "a\u202eb", "\x7f", "犬"])
def test_json_stays_equal_and_holds_nothing_that_a_terminal_obeys(text):
    written = visible_json(json.dumps({"caption": text}, ensure_ascii=False))
    assert json.loads(written) == {"caption": text}
    assert visible(written) == written


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("=1+1", "'=1+1"),
        ("@SUM(A1)", "'@SUM(A1)"),
        ("+cmd|' /C calc'!A0", "'+cmd|' /C calc'!A0"),
        ("-dog", "'-dog"),
        ("\tdog", "'\tdog"),
        (" =1+1", "' =1+1"),
        ("\u3000=1", "'\u3000=1"),
        ("\n=1", "'\n=1"),
        ("\ta", "'\ta"),
        ("\uff1d1+1", "'\uff1d1+1"),
        ("-0.5", "-0.5"),
        (" -0.5", " -0.5"),
        ("+1e-3", "+1e-3"),
        ("a dog = an animal", "a dog = an animal"),
        ("a\x1b[2J", r"a\x1b[2J"),
        (-0.5, -0.5),
        (None, None),
    ],
)
def test_a_csv_cell_is_never_a_formula(value, expected):
    assert csv_cell(value) == expected
