import json

import pytest

from clipret.datasets.karpathy import find_karpathy, read_karpathy
from clipret.errors import DatasetError

SENTENCES = [{"tokens": ["a", "dog"], "raw": "A dog.", "imgid": 0, "sentid": 12}]
IMAGE = {
    "filepath": "val2014",
    "sentids": [12],
    "filename": "COCO_val2014_000000391895.jpg",
    "imgid": 0,
    "split": "test",
    "sentences": SENTENCES,
    "cocoid": 391895,
}


def content(**changes) -> str:
    kept = {name: value for name, value in {**IMAGE, **changes}.items() if value is not None}
    return json.dumps({"images": [kept], "dataset": "coco"})


def test_images_keep_the_order_of_the_file_and_sentences_theirs(tmp_path):
    path = tmp_path / "dataset_coco.json"
    second = {**IMAGE, "filename": "x.jpg", "filepath": "", "cocoid": 5, "split": "restval"}
    second["sentences"] = [{"raw": "two", "sentid": 3}, {"raw": "one", "sentid": 2}]
    path.write_text(json.dumps({"images": [IMAGE, second], "dataset": "coco"}))
    first, other = read_karpathy(path, id_field="cocoid")
    assert (first.id, first.file, first.split) == (391895, "val2014/COCO_val2014_000000391895.jpg", "test")
    assert first.captions == [(12, "A dog.")]
    assert (other.id, other.file, other.split) == (5, "x.jpg", "restval")
    assert other.captions == [(3, "two"), (2, "one")]
    assert read_karpathy(path)[0].id is None


def test_a_null_is_an_empty_caption(tmp_path):
    path = tmp_path / "dataset_coco.json"
    path.write_text(content(sentences=[*SENTENCES, {"raw": None, "sentid": 13}]))
    assert read_karpathy(path)[0].captions == [(12, "A dog."), (13, "")]


@pytest.mark.parametrize("folder", ["", "annotations", "karpathy", "caption_datasets"])
def test_the_file_is_found_where_people_keep_it(tmp_path, folder):
    assert find_karpathy(tmp_path, "dataset_coco.json") is None
    path = tmp_path / folder / "dataset_coco.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text("{}")
    assert find_karpathy(tmp_path, "dataset_coco.json") == path


MALFORMED = {
    "not JSON": (
        "{",
        "{path} is not JSON: expecting property name enclosed in double quotes, line 1, column 2 (byte 1); "
        "fix it, or download it again.",
    ),
    "no images": (
        '{"dataset": "coco"}',
        "{path} is not a split file of Karpathy's: expected an object with a list `images`.",
    ),
    "an image that is text": (
        '{"images": ["x"]}',
        "{path}: images[0] is not an object; expected filename, split and sentences.",
    ),
    "no split": (content(split=None), "{path}: images[0]: `split` is not there; expected text."),
    "unknown split": (
        content(split="dev"),
        "{path}: images[0] has split 'dev'; expected one of: train, val, test, restval.",
    ),
    "no sentences": (content(sentences=None), "{path}: images[0]: `sentences` is not there; expected a list."),
    "sentence without id": (
        content(sentences=[{"raw": "x"}]),
        "{path}: images[0], a sentence: `sentid` is not there; expected a whole number.",
    ),
    "sentence without text": (
        content(sentences=[{"sentid": 4, "raw": 9}]),
        "{path}: images[0], sentence 4: `raw` is 9; expected text.",
    ),
    "sentence id twice": (content(sentences=SENTENCES * 2), "{path}: 1 sentence ids are repeated: 12."),
    "no COCO id": (content(cocoid=None), "{path}: images[0]: `cocoid` is not there; expected a whole number."),
    "no file name": (content(filename=None), "{path}: images[0]: `filename` is not there; expected text."),
}


@pytest.mark.parametrize(("text", "message"), MALFORMED.values(), ids=MALFORMED.keys())
def test_a_malformed_file_is_one_clear_line(tmp_path, text, message):
    path = tmp_path / "dataset_coco.json"
    path.write_text(text)
    with pytest.raises(DatasetError) as caught:
        read_karpathy(path, id_field="cocoid")
    assert str(caught.value) == message.format(path=path)
