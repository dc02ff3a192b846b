import json

import pytest

from clipret.annotations.languages import XM3600_CAPTIONS
from clipret.config import SPLITS, DatasetConfig
from clipret.datasets import load_dataset
from clipret.errors import DatasetError
from tests.helpers.own_data import lines, make


def entry(key, *, languages=("en", "de", "quz"), captions=2):
    """A line of captions.jsonl, every field of it."""
    texts = {language: [f"{language} {key} {place}" for place in range(captions)] for language in languages}
    return {"image/key": key, "image/locale": "quz"} | {
        language: {
            "caption": own,
            "caption/tokenized": [" ".join(text.split()) for text in own],
            "caption/tokenized/lowercase": [text.lower() for text in own],
        }
        for language, own in texts.items()
    }


def loaded(root):
    return load_dataset(DatasetConfig(dataset="xm3600", root=root))


def test_the_published_numbers_add_up():
    assert (len(XM3600_CAPTIONS), sum(XM3600_CAPTIONS.values())) == (36, 261_375)


def test_captions_are_found_by_language(tmp_path):
    make(tmp_path, {"captions.jsonl": lines(entry("b"), entry("a", languages=("de",))), "images/a.jpg": "A"})
    dataset = loaded(tmp_path)
    assert (dataset.name, dataset.split_rule) == ("xm3600", "all images are test")
    assert dataset.image_ids == ["b", "a"]
    assert dataset.image_files == ["images/b.jpg", "images/a.jpg"]
    assert {SPLITS[code] for code in dataset.image_splits} == {"test"}
    assert dataset.caption_ids == ["de:b#0", "de:b#1", "en:b#0", "en:b#1", "quz:b#0", "quz:b#1", "de:a#0", "de:a#1"]
    assert dataset.captions[:3] == ["de b 0", "de b 1", "en b 0"]
    assert dataset.caption_images.tolist() == [0] * 6 + [1] * 2
    assert dataset.missing_rows().tolist() == [0]


def test_other_numbers_than_the_published_ones_are_said(tmp_path):
    make(tmp_path, {"captions.jsonl": lines(entry("a"))})
    remarks = loaded(tmp_path).remarks
    assert remarks[0] == "1 images (published: 3,600)"
    assert "de has 2 captions (published: 8,643)" in remarks
    assert "ar has 0 captions (published: 7,367)" in remarks
    assert len(remarks) == 1 + 36


def test_a_whole_set_has_nothing_to_say(tmp_path):
    content = []
    for row in range(3_600):
        captions = {
            language: {"caption": [f"{language} {row}"] * (count // 3_600 + (row < count % 3_600))}
            for language, count in XM3600_CAPTIONS.items()
        }
        content.append({"image/key": f"{row:016x}", "image/locale": "en"} | captions)
    make(tmp_path, {"captions.jsonl": lines(*content)})
    dataset = loaded(tmp_path)
    assert dataset.remarks == ()
    assert (len(dataset.image_ids), len(dataset.captions)) == (3_600, 261_375)


REFUSED = {
    "key": (lines({"en": {"caption": []}}), "line 1: `image/key` is None; expected the name of an image."),
    "path": (lines({"image/key": "../a"}), "line 1: `image/key` is '../a'; expected the name of an image."),
    "texts": (
        lines({"image/key": "a", "en": {"caption": "one"}}),
        "line 1: `en` has {'caption': 'one'}; expected an object with `caption`, a list of texts.",
    ),
    "twice": (lines(entry("a"), entry("a")), None),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_malformed_file_is_one_clear_line(tmp_path, name):
    content, message = REFUSED[name]
    make(tmp_path, {"captions.jsonl": content})
    path = tmp_path / "captions.jsonl"
    with pytest.raises(DatasetError) as caught:
        loaded(tmp_path)
    twice = f"{path}: 1 images are there twice: a; download it again."
    assert str(caught.value) == (f"{path}, {message}" if message else twice)


def test_what_is_missing_is_said_with_where_to_get_it(tmp_path):
    with pytest.raises(DatasetError) as caught:
        loaded(tmp_path)
    assert str(caught.value) == (
        f"XM3600's captions.jsonl is not in {tmp_path}. Fetch captions.zip from "
        f"https://google.github.io/crossmodal-3600 and the images from its link images.tgz, or say where they "
        f"are with --root."
    )
    assert json.loads(lines(entry("a")))["image/key"] == "a"
