"""JSON records: forms, and the messages on values without the form."""

from typing import Any

import pytest

from clipret.machine.records import AtLeast, Each, Maybe, RecordError, parse_record, read_record

FORM = {
    "name": str,
    "count": AtLeast(1),
    "score": (float, None),
    "done": bool,
    "more": Maybe({"list": [int]}),
    "any": Maybe(Any),
    "notes": Maybe(Each(str)),
}
GOOD = '"name": "a", "count": 2, "score": 0.5, "done": true'


def refusal(text, form=FORM, version=None):
    with pytest.raises(RecordError) as caught:
        parse_record(text, form, version=version)
    return str(caught.value)


def test_a_value_of_the_form_is_returned_with_its_other_fields():
    text = "{" + GOOD + ', "more": {"list": [1, -2]}, "any": [null], "notes": {"x": "y"}, "other": 1e3}'
    content = parse_record(text.encode(), FORM)
    assert content["more"] == {"list": [1, -2]}
    assert content["other"] == 1000.0
    assert parse_record("{" + GOOD.replace("0.5", "null") + "}", FORM)["score"] is None
    assert parse_record("{" + GOOD.replace("0.5", "3") + "}", FORM)["score"] == 3
    assert parse_record('{"format": 2}', {}, version=2) == {"format": 2}


@pytest.mark.parametrize(
    ("before", "after", "text"),
    [
        ('"a"', "null", "name is null; expected text"),
        ('"a"', "[]", "name is a list; expected text"),
        ('"a"', '{"b": 1}', "name is an object; expected text"),
        ("2", "0", "count is 0; expected 1 or more"),
        ("2", "2.5", "count is 2.5; expected a whole number"),
        ("2", "true", "count is true; expected a whole number"),
        ("2", "9" * 30, "count is a whole number of over 63 bits; expected a whole number"),
        ("2", "9" * 5000, "it has a number with too many digits"),
        ("0.5", '"x"', "score is 'x'; expected a number or null"),
        ("0.5", f'"{"x" * 99}"', f"score is '{'x' * 56}...; expected a number or null"),
        ("0.5", "false", "score is false; expected a number or null"),
        ("0.5", "NaN", "it has NaN where a number is expected"),
        ("0.5", "-Infinity", "it has -Infinity where a number is expected"),
        ("0.5", "1e999", "it has the number 1e999, which is too large"),
        ("true", "1", "done is 1; expected true or false"),
        ("true", 'true, "more": []', "more is a list; expected an object"),
        ("true", 'true, "more": {}', "more lacks list"),
        ("true", 'true, "more": {"list": [1, "2"]}', "more.list.1 is '2'; expected a whole number"),
        ("true", 'true, "notes": {"x": 1}', "notes.x is 1; expected text"),
        ("true", 'true, "name": "b"', "its field 'name' is there twice"),
        ('"name"', '"names"', "it lacks the field name"),
        ("true", 'true, "any": ' + "[" * 100_000, "it nests too deep"),
        ("true", "true,", "it is not JSON: Expecting property name enclosed in double quotes, line 1, column 54"),
    ],
)
def test_an_error_names_the_field(before, after, text):
    assert refusal("{" + GOOD.replace(before, after) + "}") == text


def test_bytes_that_are_not_text_are_reported():
    assert refusal(b"{\xff}") == "it is not UTF-8 text: byte 1 is 0xff"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[]", "it is a list; expected an object"),
        ("{}", "it is of format null; this clipret reads format 2"),
        ('{"format": 1}', "it is of format 1; this clipret reads format 2"),
        ('{"format": true}', "it is of format true; this clipret reads format 2"),
        ('{"format": "2"}', "it is of format '2'; this clipret reads format 2"),
    ],
)
def test_another_format_is_reported_before_anything_else(text, message):
    assert refusal(text, version=2) == message


def test_more_values_than_memory_is_good_for_are_refused_before_they_are_made(monkeypatch):
    monkeypatch.setattr("clipret.machine.records._MOST_VALUES", 10)
    assert parse_record(f"[{'1,' * 9}1]", [int]) == [1] * 10
    assert refusal(f"[{'1,' * 10}1]", [int]) == "it has more than 10 values"


def test_a_file_is_read_up_to_its_limit(tmp_path, monkeypatch):
    path = tmp_path / "a.json"
    path.write_text("[1]")
    assert read_record(path, [int]) == [1]
    monkeypatch.setattr("clipret.machine.records._MOST_BYTES", 2)
    with pytest.raises(OSError, match="it is larger than 2 bytes"):
        read_record(path, [int])
