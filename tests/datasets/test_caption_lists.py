"""Captions that are lists written as text, whatever file they come by."""

import json

import pytest

from clipret.datasets.caption_lists import parse_list
from tests.helpers.own_data import lines, load, make, write, write_shard

TEXTS = [["a dot", "a spot, number 0", "it's round"], ["two dots"]]
CAPTIONS = ["a dot", "a spot, number 0", "it's round", "two dots"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('["a dot", "a spot"]', ["a dot", "a spot"]),
        ("['a dot', \"it's round\"]", ["a dot", "it's round"]),
        (' ["a", null] ', ["a", ""]),
        ("['a', None]", ["a", ""]),
        ("[dog]", None),
        ("[laughs] a man [off screen]", None),
        ("[]", []),
        ("['a dog' 'a cat']", ["a dog", "a cat"]),
        ('["a dog"\n "a cat"]', ["a dog", "a cat"]),
        ("['a', nan, 'b',]", ["a", "", "b"]),
        ("['a \\d dog', 'c']", ["a \\d dog", "c"]),
        ("['a' ... 'c']", None),
        ("['a',, 'c']", None),
        ("['a' + 'b']", None),
        ("[b'a', 'b']", None),
        ("[f'a', 'b']", None),
        ("['a'] and ['b']", None),
        ("['a", None),
        ("['a]", None),
        ("[1, 2]", None),
        ('["a", ["b"]]', None),
        ("[__import__('os').getcwd()]", None),
        ("[" * 100_000 + "]" * 100_000, None),
        ('["a"' + " " * (1 << 20) + "]", None),
    ],
)
def test_only_a_list_of_texts_is_one(text, expected):
    assert parse_list(text) == expected


@pytest.mark.parametrize("form", [json.dumps, repr])
@pytest.mark.parametrize("kind", ["csv", "jsonl", "tar", "folder"])
def test_lists_are_taken_apart_in_every_form(tmp_path, form, kind):
    texts = [form(texts) for texts in TEXTS]
    files = {f"{row}.{end}": data for row, text in enumerate(texts) for end, data in (("jpg", b"x"), ("txt", text))}
    path = tmp_path / (kind if kind == "folder" else f"t.{kind}")
    if kind == "csv":
        cells = [f'{row}.jpg,"{text.replace(chr(34), chr(34) * 2)}"' for row, text in enumerate(texts)]
        write(path, "\n".join(["image,caption", *cells]))
    elif kind == "jsonl":
        write(path, lines(*({"image": f"{row}.jpg", "caption": text} for row, text in enumerate(texts))))
    elif kind == "tar":
        write_shard(path, files)
    else:
        make(path, files)
    dataset = load(path)
    assert dataset.captions == CAPTIONS
    assert dataset.caption_images.tolist() == [0, 0, 0, 1]
    assert [name.rpartition("#")[2] for name in dataset.caption_ids] == ["0", "1", "2", "0"]
    assert dataset.remarks == (f"2 captions written as lists, such as {texts[0][:37]}..., read as 4 captions",)


def test_an_empty_list_is_no_caption_where_others_are_lists(tmp_path):
    dataset = load(write(tmp_path / "x.csv", "image,caption\na.jpg,\"['x y', 'z']\"\nb.jpg,[]\n"))
    assert dataset.captions == ["x y", "z"]
    assert dataset.remarks == (
        "2 captions written as lists, such as ['x y', 'z'], read as 2 captions",
        "1 image without a caption, in the gallery only",
    )
    assert load(write(tmp_path / "y.csv", "image,caption\na.jpg,a dog\nb.jpg,[]\n")).captions == ["a dog", "[]"]


def test_captions_with_ids_of_their_own_keep_them_numbered(tmp_path):
    path = tmp_path / "captions.json"
    images = [{"id": row, "file_name": f"{row}.jpg"} for row in range(2)]
    annotations = [{"id": 7 + row, "image_id": row, "caption": text} for row, text in enumerate(['["a", "b"]', "c"])]
    path.write_text(json.dumps({"images": images, "annotations": annotations}), encoding="utf-8")
    dataset = load(path)
    assert dataset.captions == ["a", "b", "c"]
    assert dataset.caption_ids == ["7.0", "7.1", "8"]


def test_empty_captions_of_a_list_are_left_out_with_a_remark(tmp_path):
    path = tmp_path / "t.jsonl"
    path.write_text(json.dumps({"image": "a.jpg", "caption": '["a", "", null]'}), encoding="utf-8")
    dataset = load(path)
    assert dataset.captions == ["a"]
    assert "left out 2 empty captions, of a.jpg" in dataset.remarks
