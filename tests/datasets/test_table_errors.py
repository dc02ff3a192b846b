import builtins

import pyarrow
import pyarrow.parquet
import pytest

from clipret.errors import DatasetError
from tests.helpers.own_data import columns, lines, load, write

HEAD = "image,caption\n"
SURROGATE = "half a surrogate pair ('\\ud800'), which is no character"
MALFORMED_CSV = {
    "empty": ("", "PATH is empty; expected a first line with the names of its columns."),
    "blank": ("\n\n", "PATH is empty; expected a first line with the names of its columns."),
    "header-only": (HEAD, "PATH has no rows; expected one for every caption."),
    "no-header": (
        "a.jpg,a dog\nb.jpg,a cat\n",
        "PATH has no columns `image` and `caption`; its columns are: a.jpg, a dog. "
        "Say which they are with --columns image=NAME,caption=NAME",
    ),
    "spellings": (
        "filename,Text,split\na.jpg,a dog,train\n",
        "PATH has no columns `image` and `caption`; its columns are: filename, Text, split. "
        "Say which they are with --columns image=filename,caption=Text",
    ),
    "one-spelling": (
        "image,raw\na.jpg,a dog\n",
        "PATH has no column `caption`; its columns are: image, raw. Say which they are with --columns caption=raw",
    ),
    "broken-header": (
        'image,"caption\na.jpg,"\n',
        "PATH: the name of a column has a line break: 'caption\\na.jpg,'; fix it.",
    ),
    "long-header": (
        f"{'x' * 50}.jpg,caption\n",
        f"PATH has no column `image`; its columns are: {'x' * 40}, caption. "
        "Say which they are with --columns image=NAME",
    ),
    "twice": (
        "image,caption,image\na.jpg,a dog,b.jpg\n",
        "PATH has columns image more than once; expected one for the image: name it with --columns image=NAME, "
        "or take the other out.",
    ),
    "open-quote": (
        f'{HEAD}a.jpg,one\nb.jpg,"two\nc.jpg,three\n',
        "PATH: the row from line 3 on is not CSV: unexpected end of data; close every double quote, and double those "
        "within quoted text.",
    ),
    "stray-quote": (
        f'{HEAD}a.jpg,"one" two\n',
        "PATH: the row from line 2 on is not CSV: ',' expected after '\"'; close every double quote, and double those "
        "within quoted text.",
    ),
    "more-cells": (
        f'{HEAD}a.jpg,"one\ntwo"\nb.jpg,three, four\n',
        "PATH, line 4 has 3 cells, expected 2 (image, caption); put text with commas "
        "or line breaks into double quotes.",
    ),
    "fewer-cells": (
        f"{HEAD}a.jpg\n",
        "PATH, line 2 has 1 cells, expected 2 (image, caption); put text with commas "
        "or line breaks into double quotes.",
    ),
    "not-utf-8": (
        f"{HEAD}a.jpg,".encode() + b"caf\xe9\n",
        "PATH is not UTF-8 text: byte 23 is 0xe9; save it as UTF-8 (iconv -t utf-8).",
    ),
    "utf-16-cut": (
        "\ufeffimage,caption\n".encode("utf-16-le")[:-1],
        "PATH begins as UTF-16 text and is not; save it as UTF-8.",
    ),
    "no-image": (f"{HEAD}a.jpg,one\n ,two\n", "PATH, line 3: image is blank; expected the path of an image file."),
    "broken-image": (f'{HEAD}"a\nb.jpg",two\n', "PATH, line 2: image has a line break: 'a\\nb.jpg'; fix it."),
    "address": (
        f"{HEAD}http://example.org/a.jpg,one\n",
        "PATH, line 2: image is an address, http://example.org/a.jpg; expected the path of a file that is here.",
    ),
    "unknown-split": (
        "image,caption,split\na.jpg,one,train\nb.jpg,two,trian\n",
        "PATH, line 3: split is 'trian'; expected one of train, val, test, restval, or go by a hash with --split hash.",
    ),
    "some-splits": (
        "image,caption,split\na.jpg,one,train\nb.jpg,two,\nc.jpg,two, \n",
        "PATH: 2 of 3 rows have no split (lines 3, 4); give every row one, or go by a hash with --split hash.",
    ),
    "blank-splits": (
        "image,caption,split\na.jpg,one,\n",
        "PATH: 1 of 1 rows have no split (line 2); give every row one, or go by a hash with --split hash.",
    ),
    "two-splits": (
        "image,caption,split\na.jpg,one,train\nb.jpg,two,val\na.jpg,three,test\n",
        "PATH, line 4: a.jpg is in test here, and in train on line 2; expected one split an image.",
    ),
    "two-ids": (
        "image,caption,id\na.jpg,one,1\na.jpg,two,2\n",
        "PATH, line 3: a.jpg has id 2 here, and has id 1 on line 2; expected one id a file, or the files as ids, "
        "with id=image in --columns.",
    ),
    "two-files": (
        "image,caption,id\na.jpg,one,1\nb.jpg,two,1\n",
        "PATH, line 3: id 1 is of b.jpg here, and of a.jpg on line 2; expected one file an id.",
    ),
    "outside": (
        f"{HEAD}../a.jpg,one\n/b.jpg,two\nC:\\d.jpg,three\n",
        "data set 'made': 3 image files are outside ROOT: ../a.jpg, /b.jpg, C:\\d.jpg; expected paths relative to it, "
        "with forward slashes and without `..`.",
    ),
    "elsewhere": (
        f"{HEAD}/data/a/b.jpg,one\n/data/c/d.jpg,two\n",
        "data set 'made': 2 image files are outside ROOT: /data/a/b.jpg, /data/c/d.jpg; expected paths relative to it, "
        "with forward slashes and without `..`, or a --root that they are in: /data.",
    ),
    "no-captions": (
        f"{HEAD}a.jpg,\nb.jpg, \n",
        "data set 'made' at ROOT has no captions: all 2 are empty, or have no visible characters.",
    ),
}
MALFORMED_JSON_LINES = {
    "empty": ("\n \n", "PATH is empty; expected a JSON object on every line."),
    "cut": (
        '{"image": "a.jpg", "caption": "one"}\n{"image": "b.j',
        "PATH is not JSON: unterminated string starting at, line 2, column 11; fix it, or download it again.",
    ),
    "list": ('["a.jpg", "one"]\n', "PATH, line 1: expected a JSON object, found list."),
    "names": (
        lines({"file_name": "a.jpg", "text": "one"}),
        "PATH has no columns `image` and `caption`; its columns are: file_name, text. "
        "Say which they are with --columns image=file_name,caption=text",
    ),
    "later-name": (
        lines({"image": "a.jpg", "caption": "one"}, {"image": "b.jpg", "text": "two"}),
        "PATH, line 2 has no `caption`; expected the caption by this name in every line.",
    ),
    "null-image": (
        lines({"image": None, "caption": "one"}),
        "PATH, line 1: image is blank; expected the path of an image file.",
    ),
    "number-image": (lines({"image": 7, "caption": "one"}), "PATH, line 1: image is a number; expected text."),
    "list-image": (
        lines({"image": ["a.jpg"], "caption": "one"}),
        "PATH, line 1: image is a list; expected text.",
    ),
    "number-caption": (
        "\n" + lines({"image": "a.jpg", "caption": 7}),
        "PATH, line 2: caption is a number; expected text, or a list of texts.",
    ),
    "object-in-captions": (
        lines({"image": "a.jpg", "caption": ["one", {"raw": "two"}]}),
        "PATH, line 1: a caption of the list is an object; expected text.",
    ),
    "surrogate": (
        '{"image": "a.jpg", "caption": "bad \\ud800"}\n',
        f"PATH, line 1: caption has {SURROGATE}: 'bad \\ud800'; fix it.",
    ),
    "nul": (
        '{"image": "a\\u0000.jpg", "caption": "one"}\n',
        "PATH, line 1: image has a NUL character: 'a\\x00.jpg'; fix it.",
    ),
    "true-id": (
        lines({"image": "a.jpg", "caption": "one", "id": True}),
        "PATH, line 1: id is true or false; expected text.",
    ),
    "fraction-id": (
        lines({"image": "a.jpg", "caption": "one", "id": 1.5}),
        "PATH, line 1: id is a number with a fraction; expected text or whole numbers.",
    ),
    "number-split": (
        lines({"image": "a.jpg", "caption": "one", "split": 0}),
        "PATH, line 1: split is a number; expected one of train, val, test, restval, or go by a hash with "
        "--split hash.",
    ),
    "later-split": (
        lines({"image": "a.jpg", "caption": "one"}, {"image": "b.jpg", "caption": "one", "split": "train"}),
        "PATH: 1 of 2 rows have no split (line 1); give every row one, or go by a hash with --split hash.",
    ),
    "null-splits": (
        lines({"image": "a.jpg", "caption": "one", "split": None}),
        "PATH: 1 of 1 rows have no split (line 1); give every row one, or go by a hash with --split hash.",
    ),
    "long-number": (
        '{"image": "a.jpg", "caption": "one", "id": ' + "1" * 5000 + "}\n",
        "PATH, line 1: it has a number with too many digits to be read; fix it, or download it again.",
    ),
    "deep": (
        '{"image": ' + "[" * 100_000 + "}\n",
        "PATH, line 1: it nests too deep to be read; fix it, or download it again.",
    ),
    "not-utf-8": (
        b'{"image": "a\xff"}\n',
        "PATH is not UTF-8 text: byte 12 is 0xff; save it as UTF-8 (iconv -t utf-8).",
    ),
}
MALFORMED_PARQUET = {
    "no-rows": (
        pyarrow.table({"image": pyarrow.array([], "string"), "caption": pyarrow.array([], "string")}),
        "PATH has no rows; expected one for every caption.",
    ),
    "names": (
        {"path": ["a.jpg"], "sentence": ["one"]},
        "PATH has no columns `image` and `caption`; its columns are: path, sentence. "
        "Say which they are with --columns image=path,caption=sentence",
    ),
    "number-image": (
        {"image": [1], "caption": ["one"]},
        "PATH: column `image` holds int64; expected text, paths of image files, as the image.",
    ),
    "number-caption": (
        {"image": ["a.jpg"], "caption": [[1, 2]]},
        "PATH: column `caption` holds list<element: int64>; expected text or lists of texts, as the caption.",
    ),
    "fraction-id": (
        {"image": ["a.jpg"], "caption": ["one"], "id": [1.5]},
        "PATH, row 1: id is a number with a fraction; expected text or whole numbers.",
    ),
    "number-split": (
        {"image": ["a.jpg"], "caption": ["one"], "split": [1]},
        "PATH: column `split` holds int64; expected text, as the split, or go by a hash with --split hash.",
    ),
    "null-image": (
        {"image": ["a.jpg", None], "caption": ["one", "two"]},
        "PATH, row 2: image is blank; expected the path of an image file.",
    ),
    "two-splits": (
        {"image": ["a.jpg", "a.jpg"], "caption": ["one", "two"], "split": ["train", "dev"]},
        "PATH, row 2: a.jpg is in val here, and in train on row 1; expected one split an image.",
    ),
    "some-splits": (
        {"image": ["a.jpg", "b.jpg"], "caption": ["one", "two"], "split": ["train", None]},
        "PATH: 1 of 2 rows have no split (row 2); give every row one, or go by a hash with --split hash.",
    ),
    "two-files": (
        {"image": ["a.jpg", "b.jpg"], "caption": ["one", "two"], "id": [3, 3]},
        "PATH, row 2: id 3 is of b.jpg here, and of a.jpg on row 1; expected one file an id.",
    ),
}
MALFORMED = [
    pytest.param(f"made.{ending}", content, message, id=f"{ending}-{name}")
    for ending, cases in (("csv", MALFORMED_CSV), ("jsonl", MALFORMED_JSON_LINES), ("parquet", MALFORMED_PARQUET))
    for name, (content, message) in cases.items()
]


@pytest.mark.parametrize(("name", "content", "message"), MALFORMED)
def test_a_malformed_table_is_one_clear_line(tmp_path, name, content, message):
    path = tmp_path / name
    if isinstance(content, pyarrow.Table):
        pyarrow.parquet.write_table(content, path)
    else:
        write(path, content)
    with pytest.raises(DatasetError) as caught:
        load(path)
    assert str(caught.value) == message.replace("PATH", str(path)).replace("ROOT", str(tmp_path))


def test_a_column_that_was_asked_for_has_to_be_there(tmp_path):
    path = write(tmp_path / "made.csv", "path,caption\na.jpg,one\n")
    with pytest.raises(DatasetError) as caught:
        load(path, columns="image=path,split=fold")
    assert str(caught.value) == (
        f"{path} has no column `fold`; its columns are: path, caption. Say which they are with --columns "
        f"image=path,split=NAME"
    )


@pytest.mark.parametrize("name", ["made.csv", "made.jsonl", "made.parquet"])
def test_a_split_that_is_asked_for_has_to_be_given(tmp_path, name):
    content = {
        "made.csv": "image,caption\na.jpg,one\n",
        "made.jsonl": lines({"image": "a.jpg", "caption": "one"}),
        "made.parquet": {"image": ["a.jpg"], "caption": ["one"]},
    }
    path = write(tmp_path / name, content[name])
    with pytest.raises(DatasetError) as caught:
        load(path, split="given")
    assert str(caught.value) == (
        f"--split is 'given', and {path} does not say which split its images are in; expected a column `split`, or use "
        f"--split hash."
    )


def test_a_caption_that_is_too_long_for_csv_is_an_error(tmp_path):
    path = write(tmp_path / "made.csv", f"{HEAD}a.jpg,{'x' * 200_000}\n")
    with pytest.raises(DatasetError) as caught:
        load(path)
    assert str(caught.value) == (
        f"{path}: the row from line 2 on is not CSV: field larger than field limit (131072); close every double quote, "
        f"and double those within quoted text."
    )


@pytest.mark.parametrize("damage", ["empty", "not-parquet", "cut", "spoiled"])
def test_a_damaged_parquet_file_is_one_clear_line(tmp_path, damage):
    rows = [(f"{number}.jpg", f"caption {number}", "train", str(number)) for number in range(500)]
    path = write(tmp_path / "made.parquet", columns(rows))
    whole = path.read_bytes()
    spoiled = whole[:4] + bytes(len(whole) // 2) + whole[4 + len(whole) // 2 :]
    path.write_bytes({"empty": b"", "not-parquet": b"image,caption\n", "cut": whole[:-9], "spoiled": spoiled}[damage])
    with pytest.raises(DatasetError) as caught:
        load(path)
    message = str(caught.value)
    # The reason is in the words of the library, whose release decides them.
    assert message.startswith(f"{path} cannot be read as Parquet: ")
    assert message.endswith("; make it again, or download it again.")
    assert "\n" not in message


def test_text_in_parquet_that_is_not_utf_8_is_one_clear_line(tmp_path):
    broken = pyarrow.array([b"caf\xe9"], "binary").view("string")
    path = tmp_path / "made.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"image": ["a.jpg"], "caption": broken}), path)
    with pytest.raises(DatasetError) as caught:
        load(path)
    assert str(caught.value) == (
        f"{path} cannot be read as Parquet: 'utf-8' codec can't decode byte 0xe9 in position 3: unexpected end of "
        f"data; make it again, or download it again."
    )


def test_without_the_package_for_parquet_the_command_that_installs_it_is_given(tmp_path, monkeypatch):
    path = write(tmp_path / "made.parquet", {"image": ["a.jpg"], "caption": ["one"]})
    imported = builtins.__import__

    def without_pyarrow(name, *arguments, **others):
        if name.startswith("pyarrow"):
            raise ModuleNotFoundError(name)
        return imported(name, *arguments, **others)

    monkeypatch.setattr(builtins, "__import__", without_pyarrow)
    with pytest.raises(DatasetError) as caught:
        load(path)
    assert str(caught.value) == (
        f"{path}: reading Parquet needs the package `pyarrow`; run: pip install 'clipret[parquet]'"
    )


@pytest.mark.parametrize("name", ["made.csv", "made.jsonl"])
def test_a_table_that_cannot_be_opened_is_named(tmp_path, monkeypatch, name):
    path = write(tmp_path / name, f"{HEAD}a.jpg,one\n")

    def refused(path, *arguments, **others):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("pathlib.Path.open", refused)
    monkeypatch.setattr("pathlib.Path.read_text", refused)
    with pytest.raises(DatasetError) as caught:
        load(path)
    assert str(caught.value) == f"{path} cannot be read: Permission denied."
