from pathlib import Path

import pytest

from clipret.datasets.parsing import (
    counted,
    flaw,
    is_there,
    listed,
    read_json,
    read_json_lines,
    read_text,
    repeated,
    shortened,
)
from clipret.errors import DatasetError


def test_text_comes_without_its_byte_order_mark_and_with_plain_line_ends(tmp_path):
    path = tmp_path / "x.txt"
    path.write_bytes(b"\xef\xbb\xbfone\r\ntwo\n")
    assert read_text(path) == "one\ntwo\n"


@pytest.mark.parametrize(("mark", "byte"), [(b"", 3), (b"\xef\xbb\xbf", 6)])
def test_the_byte_that_is_no_text_is_the_files_own(tmp_path, mark, byte):
    path = tmp_path / "x.txt"
    path.write_bytes(mark + b"abc\xffdef")
    with pytest.raises(DatasetError) as caught:
        read_text(path)
    assert str(caught.value) == f"{path} is not UTF-8 text: byte {byte} is 0xff; save it as UTF-8 (iconv -t utf-8)."


def test_a_file_that_is_not_there_cannot_be_read(tmp_path):
    with pytest.raises(DatasetError) as caught:
        read_text(tmp_path / "gone")
    assert str(caught.value) == f"{tmp_path}/gone cannot be read: No such file or directory."


def test_json_lines_come_with_their_numbers_and_without_blank_ones(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_text('{"a": 1}\n\n{"b": 2}')
    assert list(read_json_lines(path)) == [(1, {"a": 1}), (3, {"b": 2})]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            '{"a": 1}\n{"a": }',
            "PATH is not JSON: expecting value, line 2, column 7; fix it, or download it again.",
        ),
        ('{"a": 1}\n[2]', "PATH, line 2: expected a JSON object, found list."),
        ("7" * 5000, "PATH, line 1: it has a number with too many digits to be read; fix it, or download it again."),
    ],
)
def test_a_line_that_is_no_object_is_named(tmp_path, content, message):
    path = tmp_path / "x.jsonl"
    path.write_text(content)
    with pytest.raises(DatasetError) as caught:
        list(read_json_lines(path))
    assert str(caught.value) == message.replace("PATH", str(path))


@pytest.mark.parametrize(
    ("content", "place"),
    [
        (b'{"a": ]', "line 1, column 7 (byte 6)"),
        (b'\xef\xbb\xbf{"a": ]', "line 1, column 7 (byte 9)"),
        (b'{"a":\r\n ]', "line 2, column 2 (byte 8)"),
        ('{"\u00e9": ]'.encode(), "line 1, column 7 (byte 7)"),
    ],
)
def test_the_place_where_json_breaks_is_the_files_own(tmp_path, content, place):
    path = tmp_path / "x.json"
    path.write_bytes(content)
    with pytest.raises(DatasetError) as caught:
        read_json(path)
    assert str(caught.value) == f"{path} is not JSON: expecting value, {place}; fix it, or download it again."


def test_a_field_that_nobody_needs_is_forgotten_wherever_it_is(tmp_path):
    path = tmp_path / "x.json"
    path.write_text('{"tokens": 1, "a": [{"tokens": ["x"], "b": 2}]}')
    assert read_json(path, without="tokens") == {"a": [{"b": 2}]}


def test_json_that_nests_too_deep_is_an_error_and_not_a_crash(tmp_path):
    path = tmp_path / "x.json"
    path.write_text("[" * 200_000)
    with pytest.raises(DatasetError, match=r"x\.json: it nests too deep to be read; fix it, or download it again\.$"):
        read_json(path)


def test_names_are_listed_up_to_a_few():
    assert listed([]) == ""
    assert listed([1, 2]) == "1, 2"
    assert listed("abcdefg") == "a, b, c, d, e, ..."


def test_numbers_agree_with_their_nouns():
    assert [counted(number, "image") for number in (0, 1, 2000)] == ["0 images", "1 image", "2,000 images"]


def test_values_are_shown_as_python_writes_them_up_to_a_length():
    assert [shortened(value) for value in (7, "a\nb", None)] == ["7", r"'a\nb'", "None"]
    assert len(shortened("x" * 500)) == 60
    assert shortened("x" * 500).endswith("...")


def test_a_path_that_cannot_be_looked_at_is_not_there(tmp_path):
    assert not is_there(tmp_path)
    assert is_there(tmp_path, Path.is_dir)
    assert not is_there(tmp_path / ("x" * 5000), Path.exists)
    assert not is_there(tmp_path / "a\0b")


def test_values_that_are_repeated_come_once():
    assert repeated("abcbcac") == ["b", "c", "a"]
    assert repeated([]) == repeated([1, 2]) == []


@pytest.mark.parametrize(
    ("text", "one_line", "fault"),
    [
        ("plain", True, None),
        ("\u00e9t\u00e9 \U0001f415", True, None),
        ("two\nlines", False, None),
        ("two\nlines", True, "a line break"),
        ("a\0b", False, "a NUL character"),
        ("\ud83d", False, "half a surrogate pair ('\\ud83d'), which is no character"),
    ],
)
def test_text_that_no_cache_can_hold_is_told(text, one_line, fault):
    assert flaw(text, one_line=one_line) == fault
