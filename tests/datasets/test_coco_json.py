import json

import pytest

from clipret.datasets.coco_json import read_captions
from clipret.errors import DatasetError

IMAGE = {"id": 3, "file_name": "b.jpg"}
CAPTION = {"id": 7, "image_id": 3, "caption": "a dog"}


def content(images=(IMAGE,), annotations=(CAPTION,)) -> str:
    return json.dumps({"images": list(images), "annotations": list(annotations)})


def test_images_come_ascending_with_their_captions_ascending(tmp_path):
    path = tmp_path / "captions.json"
    images = [IMAGE, {"id": 1, "file_name": "a.jpg", "license": 4}, {"id": 2, "file_name": "c.jpg"}]
    captions = [{**CAPTION, "id": 9, "caption": "second"}, CAPTION, {"id": 8, "image_id": 1, "caption": "alone"}]
    path.write_text(content(images, captions))
    assert [(image.id, image.file_name, image.captions) for image in read_captions(path)] == [
        (1, "a.jpg", [(8, "alone")]),
        (2, "c.jpg", []),
        (3, "b.jpg", [(7, "a dog"), (9, "second")]),
    ]


def test_a_null_is_an_empty_caption(tmp_path):
    path = tmp_path / "captions.json"
    path.write_text(content(annotations=[CAPTION, {**CAPTION, "id": 8, "caption": None}]))
    assert read_captions(path)[0].captions == [(7, "a dog"), (8, "")]


MALFORMED = {
    "empty": (
        "",
        "{path} is not JSON: expecting value, line 1, column 1 (byte 0); fix it, or download it again.",
    ),
    "cut off": (
        '{"images": [\n {"id": 1, "x": "é',
        "{path} is not JSON: unterminated string starting at, line 2, column 17 (byte 29); fix it, or download it "
        "again.",
    ),
    "a list": ("[]", "{path} is not a COCO caption file: it has a list; expected lists images and annotations."),
    "an empty object": (
        "{}",
        "{path} is not a COCO caption file: it has nothing; expected lists images and annotations.",
    ),
    "another kind of annotation file": (
        '{"images": [], "categories": []}',
        "{path} is not a COCO caption file: it has images, categories; expected lists images and annotations.",
    ),
    "images that are no list": (
        '{"images": {}, "annotations": []}',
        "{path} is not a COCO caption file: it has images, annotations; expected lists images and annotations.",
    ),
    "image without id": (
        content(images=[IMAGE, {"file_name": "a.jpg"}]),
        "{path}: id of images[1] is not there; expected a whole number, as in COCO's caption files.",
    ),
    "image without file name": (
        content(images=[{"id": 3}]),
        "{path}: file_name of images[0] is not there; expected text, as in COCO's caption files.",
    ),
    "id as text": (
        content(images=[{**IMAGE, "id": "3"}]),
        "{path}: id of images[0] is '3'; expected a whole number, as in COCO's caption files.",
    ),
    "id that is true": (
        content(images=[{**IMAGE, "id": True}]),
        "{path}: id of images[0] is True; expected a whole number, as in COCO's caption files.",
    ),
    "image that is a number": (
        content(images=[5]),
        "{path}: id of images[0] is not there; expected a whole number, as in COCO's caption files.",
    ),
    "annotation without caption": (
        content(annotations=[{"id": 1, "image_id": 3, "bbox": []}]),
        "{path}: caption of annotations[0] is not there; expected text, as in COCO's caption files.",
    ),
    "caption that is a number": (
        content(annotations=[{**CAPTION, "caption": 3}]),
        "{path}: caption of annotations[0] is 3; expected text, as in COCO's caption files.",
    ),
    "image id twice": (
        content(images=[IMAGE, {**IMAGE, "file_name": "c.jpg"}]),
        "{path}: 1 ids are repeated among images: 3; expected each once.",
    ),
    "caption id twice": (
        content(annotations=[CAPTION, CAPTION]),
        "{path}: 1 ids are repeated among annotations: 7; expected each once.",
    ),
    "captions of unknown images": (
        content(annotations=[{"id": n, "image_id": n % 7 + 4, "caption": "x"} for n in range(12)]),
        "{path}: 12 captions are of images that it does not list: 4, 5, 6, 7, 8, ...; expected every image_id among "
        "the ids of `images`.",
    ),
}


@pytest.mark.parametrize(("text", "message"), MALFORMED.values(), ids=MALFORMED.keys())
def test_a_malformed_file_is_one_clear_line(tmp_path, text, message):
    path = tmp_path / "captions.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(DatasetError) as caught:
        read_captions(path)
    assert str(caught.value) == message.format(path=path)


def test_text_that_is_not_utf_8_is_named_with_its_byte(tmp_path):
    path = tmp_path / "captions.json"
    path.write_bytes(b'{"images": "\xff"}')
    with pytest.raises(DatasetError) as caught:
        read_captions(path)
    assert str(caught.value) == f"{path} is not UTF-8 text: byte 12 is 0xff; save it as UTF-8 (iconv -t utf-8)."
