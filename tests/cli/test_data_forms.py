"""Data as people have it, on the command line: what `check` says of each form, its remarks and its exit status."""

import json
import re
import unicodedata

import pytest

from tests.helpers.own_data import make, write, write_shard

NAMES = [f"im{place}.jpg" for place in range(4)]
IMAGES = dict.fromkeys(NAMES, b"not opened")
DOTS = [f"dot {place}" for place in range(4)]
ROWS = list(zip(NAMES, DOTS, strict=True))
CAFE = [unicodedata.normalize(form, "café.jpg") for form in ("NFC", "NFD")]
BY_LOOK = "found by names with other letter case or other encoding of accents"
LISTS = [json.dumps([dot, "it's a spot, or so"]) for dot in DOTS]


def table(head="image,caption", rows=ROWS, sign=",", end="\n"):
    return "".join(f"{line}{end}" for line in [head, *(sign.join(row) for row in rows)])


def quoted(text):
    return '"' + text.replace('"', '""') + '"'


def karpathy(names):
    return {
        "dataset": "mine",
        "images": [
            {"filename": name, "split": split, "sentences": [{"raw": "a dot", "sentid": place}]}
            for place, (name, split) in enumerate(zip(names, ["train", "train", "val", "test"], strict=True))
        ],
    }


HASHED, GIVEN = "hash 80/10/10 of the images' paths", "given"
# Files, words of the command, images, captions, split by, remarks.
FORMS = {
    "captions as lists in text": (
        {**IMAGES, "d.csv": table(rows=zip(NAMES, map(quoted, LISTS), strict=True))},
        "d.csv",
        (4, 8, HASHED),
        [
            '4 captions written as lists, such as ["dot 0", "it\'s a spot, or so"], read as 8 captions',
        ],
    ),
    "captions as lists in Python's notation": (
        {**IMAGES, "d.tsv": table("image\tcaption", [(name, "['a', 'b']") for name in NAMES], "\t")},
        "d.tsv",
        (4, 8, HASHED),
        ["4 captions written as lists, such as ['a', 'b'], read as 8 captions"],
    ),
    "tabs in a .csv": (
        {**IMAGES, "d.csv": table("filepath\ttitle", sign="\t", end="\r\n")},
        "d.csv --columns image=filepath,caption=title",
        (4, 4, HASHED),
        ["the cells of d.csv are separated by tabs, not by commas"],
    ),
    "semicolons in a .csv": (
        {**IMAGES, "d.csv": table("image;caption", sign=";")},
        "d.csv",
        (4, 4, HASHED),
        ["the cells of d.csv are separated by semicolons, not by commas"],
    ),
    "Excel's first line": ({**IMAGES, "d.csv": "sep=,\r\n" + table(end="\r\n")}, "d.csv", (4, 4, HASHED), []),
    "UTF-16": ({**IMAGES, "d.csv": table().encode("utf-16")}, "d.csv", (4, 4, HASHED), []),
    "blank rows below": ({**IMAGES, "d.csv": table() + ",\n,\n"}, "d.csv", (4, 4, HASHED), []),
    "several columns of captions": (
        {**IMAGES, "d.csv": table("image,caption_0,caption_1", [(name, "one", "two") for name in NAMES])},
        "d.csv --columns caption=caption_0,caption=caption_1",
        (4, 8, HASHED),
        [],
    ),
    "several columns of captions, unnamed": (
        {**IMAGES, "d.csv": table("image,caption_0,caption_1", [(name, "one", "two") for name in NAMES])},
        "d.csv",
        (4, 8, HASHED),
        [],
    ),
    "a null in a list": (
        {**IMAGES, "d.jsonl": "".join(json.dumps({"image": name, "caption": ["x", None]}) + "\n" for name in NAMES)},
        "d.jsonl",
        (4, 4, HASHED),
        ["left out 4 empty captions, of im0.jpg, im1.jpg, im2.jpg, im3.jpg"],
    ),
    "captions that are empty to CLIP": (
        {**IMAGES, "d.csv": table(rows=[*ROWS[:3], ("im3.jpg", "&nbsp;")])},
        "d.csv",
        (4, 3, HASHED),
        ["left out 1 empty caption, of im3.jpg", "1 image without a caption, in the gallery only"],
    ),
    "ids as floats": (
        {**IMAGES, "d.parquet": {"image": NAMES, "caption": DOTS, "id": [0.0, 1.0, 2.0, 3.0]}},
        "d.parquet",
        (4, 4, "hash 80/10/10 of the images' ids"),
        [],
    ),
    "an id column with a gap": (
        {**IMAGES, "d.parquet": {"image": NAMES, "caption": DOTS, "id": [0, None, 2, 3]}},
        "d.parquet",
        (4, 4, HASHED),
        ["1 row of 4 without an id, so that the files are the ids"],
    ),
    "a split column of numbers, set aside": (
        {**IMAGES, "d.parquet": {"image": NAMES, "caption": DOTS, "split": [0, 1, 2, 0]}},
        "d.parquet --split hash",
        (4, 4, HASHED),
        [],
    ),
    "a name in another encoding of accents": (
        {CAFE[1]: b"", "d.csv": table(rows=[(CAFE[0], "a cup")])},
        "d.csv",
        (1, 1, HASHED),
        [f"1 image file {BY_LOOK}: {CAFE[1]} for {CAFE[0]}"],
    ),
    "a name in another letter case": (
        {"shot.jpg": b"", "d.csv": table(rows=[("shot.JPG", "a shot")])},
        "d.csv",
        (1, 1, HASHED),
        [f"1 image file {BY_LOOK}: shot.jpg for shot.JPG"],
    ),
    "a text file in another encoding of accents": (
        {f"d/{CAFE[1]}": b"", f"d/{CAFE[0][:-4]}.txt": "a cup\n"},
        "d",
        (1, 1, HASHED),
        [f"1 text file {BY_LOOK}: {CAFE[0][:-4]}.txt for {CAFE[1]}"],
    ),
    "absolute paths": (
        {**IMAGES, "d.csv": table(rows=[("HERE/im0.jpg", "a"), ("im1.jpg", "b")])},
        "d.csv",
        (2, 2, HASHED),
        ["1 absolute path read as starting from the root, .: HERE/im0.jpg"],
    ),
    "absolute paths below the top folder": (
        {**IMAGES, "d.csv": table(rows=[("HERE/im0.jpg", "a")])},
        "d.csv --root /",
        (1, 1, HASHED),
        ["1 absolute path read as starting from the root, /: HERE/im0.jpg"],
    ),
    "backslashes": (
        {"p/im0.jpg": b"", "d.csv": table(rows=[("p\\im0.jpg", "a")])},
        "d.csv",
        (1, 1, HASHED),
        ["1 path with backslashes, read as with slashes: p\\im0.jpg"],
    ),
    "a JSON list": (
        {**IMAGES, "d.json": json.dumps([{"image": n, "caption": [d, "spot"], "image_id": n} for n, d in ROWS])},
        "d.json",
        (4, 8, "hash 80/10/10 of the images' ids"),
        [],
    ),
    "Karpathy's form": (
        {**{f"p/{name}": b"" for name in NAMES}, "d.json": json.dumps(karpathy(NAMES))},
        "d.json --root p",
        (4, 4, GIVEN),
        [],
    ),
    "Flickr8k's folder": (
        {**{f"d/Images/{name}": b"" for name in NAMES}, "d/captions.txt": table()},
        "d",
        (4, 4, HASHED),
        ["the paths in captions.txt start from Images, where these images are"],
    ),
    "a table for each split": (
        {**{f"d/{n}": b"" for n in NAMES}, "d/train.csv": table(rows=ROWS[:3]), "d/test.csv": table(rows=ROWS[3:])},
        "d",
        (4, 4, GIVEN),
        [],
    ),
    "metadata in the folders of splits": (
        {
            f"d/data/{split}/{name}": content
            for split, name, content in [
                ("train", "im0.jpg", b""),
                ("train", "metadata.csv", "file_name,text\nim0.jpg,a\n"),
                ("test", "im1.jpg", b""),
                ("test", "metadata.csv", "file_name,text\nim1.jpg,b\n"),
            ]
        },
        "d",
        (2, 2, GIVEN),
        [],
    ),
    "a folder of shards": (
        {"d/0.tar": {"a.jpg": b"", "a.txt": "a dot", "b.jpg": b"", "b.txt": "b dot"}},
        "d",
        (2, 2, "hash 80/10/10 of the images' ids"),
        ["read as 1 shard: 0.tar"],
    ),
    "dots in the names of members": (
        {"d.tar": {"one v1.0.jpg": b"", "one v1.0.txt": "a dot", "two.in.jpg": b"", "two.out.txt": "b"}},
        "d.tar",
        (2, 2, "hash 80/10/10 of the images' ids"),
        [
            "2 samples have dots in their names; a sample is all members with the same name up to the first dot, "
            "and these were read by their last endings: d.tar/one v1.0.jpg, d.tar/two.in.jpg"
        ],
    ),
    "one sample without a caption": (
        {"d.tar": {"a.jpg": b"", "a.txt": "a dot", "b.jpg": b""}},
        "d.tar",
        (2, 1, "hash 80/10/10 of the images' ids"),
        ["1 image without a caption, in the gallery only"],
    ),
}
REFUSED = {
    "a split column of numbers": (
        {"d.parquet": {"image": NAMES, "caption": DOTS, "split": [0, 1, 2, 0]}},
        "d.parquet",
        "d.parquet: column `split` holds int64; expected text, as the split, or go by a hash with --split hash.",
    ),
    "another encoding": (
        {"d.csv": "image,caption\na.jpg,café\n".encode("cp1252")},
        "d.csv",
        "d.csv is not UTF-8 text: byte 23 is 0xe9; save it as UTF-8 (iconv -t utf-8).",
    ),
    "members with other endings": (
        {"d.tar": {"a.img": b"", "a.cap": "a dot"}},
        "d.tar",
        "d.tar: no sample has an image; a sample is all members with the same name up to the first dot, and what "
        "follows has to be .jpg, .jpeg, .png or .webp: found .cap, .img.",
    ),
    "absolute paths elsewhere": (
        {"d.csv": table(rows=[("/photos/a/b.jpg", "one"), ("/photos/c.jpg", "two")])},
        "d.csv",
        "data set 'd': 2 image files are outside .: /photos/a/b.jpg, /photos/c.jpg; expected paths relative to it, "
        "with forward slashes and without `..`, or a --root that they are in: /photos.",
    ),
}


def make_here(folder, files):
    for name, content in files.items():
        if name.endswith(".tar"):
            write_shard(folder / name, content)
        elif isinstance(content, str):
            make(folder, {name: content.replace("HERE", str(folder))})
        elif name.endswith(".parquet"):
            write(folder / name, content)
        else:
            make(folder, {name: content})


@pytest.mark.parametrize("name", FORMS)
def test_what_people_have_is_read_and_what_was_put_right_is_told(run, tmp_path, name):
    files, words, (images, captions, split_by), remarks = FORMS[name]
    make_here(tmp_path, files)
    status, out, _ = run("check", "--dataset", *words.split())
    assert status == 0
    # A table breaks lines where it is full, also within a path.
    table_of, _, _ = squeezed(out).partition("wordsacaption")
    expected = [f"images {images}; all are there", f"captions {captions};", f"split by {split_by} too long"]
    assert [words for words in map(squeezed, expected) if words not in table_of] == []
    lines = table_of.partition(squeezed("get truncated"))[2]
    assert lines == squeezed("".join(f"remark {remark}" for remark in remarks).replace("HERE", str(tmp_path)))


def squeezed(text):
    return re.sub(r"\s", "", text)


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_read_for_certain_is_one_line(run, tmp_path, name):
    files, words, message = REFUSED[name]
    make_here(tmp_path, files)
    status, _, err = run("check", "--dataset", *words.split(), "-q")
    assert (status, err.strip()) == (1, f"error: {message}")
