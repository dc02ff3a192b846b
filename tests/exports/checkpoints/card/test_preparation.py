"""The Python of a card prepares images and captions as an extraction does."""

import numpy as np
import pytest
from PIL import Image

from clipret.datasets.captions import prompted
from clipret.exports.checkpoints.card.preparation import preparation_code, preparation_words
from clipret.images import on_white
from clipret.images.padding import Padded

CAPTION = "  Two DOGS, (big)   – “well”!"
COLOUR = (122, 116, 104)


def images(background="clip", padding=None):
    return {"background": background, "padding": padding}


def captions(prompt="{}", cleaning="none"):
    return {"prompt": prompt, "cleaning": cleaning}


def prepared(folder, monkeypatch, *, image, code):
    """What the lines make of a picture."""
    image.save(folder / "photo.jpg", format="PNG")
    monkeypatch.chdir(folder)
    names = {}
    exec(compile(code, "card", "exec"), names)
    for picture in names["pictures"]:
        # Which closes the file.
        picture.load()
    return names


def pictures():
    """Of modes with and without transparency, wider than high and the other way round."""
    generator = np.random.default_rng(0)
    for mode, depth, size in (("RGBA", 4, (40, 31)), ("RGB", 3, (31, 40)), ("LA", 2, (20, 50)), ("RGB", 3, (30, 30))):
        pixels = generator.integers(0, 256, size=(*size[::-1], depth), dtype=np.uint8)
        yield Image.fromarray(pixels, mode=mode)
    yield Image.fromarray(generator.integers(0, 256, size=(20, 30), dtype=np.uint8)).convert("P")


@pytest.mark.parametrize("background", ["white", "clip"])
@pytest.mark.parametrize("padding", [None, list(COLOUR)])
def test_pictures_are_the_pixels_that_the_encoder_was_given(tmp_path, monkeypatch, background, padding):
    for image in pictures():
        code = preparation_code(images(background, padding), captions())
        (picture,) = prepared(tmp_path, monkeypatch, image=image, code=code)["pictures"]
        expected = on_white(image) if background == "white" else image
        expected = Padded(lambda same: same, COLOUR)(expected) if padding else expected
        assert np.array_equal(np.asarray(picture.convert("RGB")), np.asarray(expected.convert("RGB")))


@pytest.mark.parametrize("cleaning", ["none", "lower", "strip-punctuation"])
@pytest.mark.parametrize("prompt", ["{}", "a photo of {}.", "say \"{}\" 'twice' \u202e\n\\ ```"])
def test_captions_are_the_texts_that_the_tokenizer_was_given(tmp_path, monkeypatch, cleaning, prompt):
    code = preparation_code(images(), captions(prompt, cleaning))
    assert "\u202e" not in code
    code = code.replace("two dogs", CAPTION)
    names = prepared(tmp_path, monkeypatch, image=next(pictures()), code=code)
    assert names["captions"] == prompted([CAPTION, "a red car"], prompt=prompt, cleaning=cleaning)


def test_it_is_said_in_words():
    assert preparation_words(images(), captions()) == [
        "Nothing is done to images and captions before the library's own preprocessing and tokenizer."
    ]
    assert preparation_words(images("white", [1, 2, 3]), captions("a {}", "lower")) == [
        "Transparent pixels of an image are painted over white.",
        "An image is padded to a square, equally on both sides, with the colour (1, 2, 3).",
        "A caption is put in lower case, and white space in it is one blank.",
        "A caption stands in a prompt, in place of the braces: a {}",
    ]
