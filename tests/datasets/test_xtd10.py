import pytest

from clipret.config import SPLITS, DatasetConfig
from clipret.datasets import load_dataset
from clipret.errors import DatasetError
from tests.helpers.own_data import load, make

NAMES = ["COCO_train2014_000000516750.jpg", "COCO_val2014_000000000042.jpg"]
FOLDERS = dict.fromkeys(("en", "es", "it", "ko", "pl", "ru", "tr", "zh"), "XTD10") | {"de": "MIC", "fr": "MIC"}


def files(names=NAMES, languages=(*FOLDERS, "jp")):
    """As the repository has them."""
    folders = FOLDERS | {"jp": "STAIR"}
    captions = {
        f"{folders[language]}/test_1kcaptions_{language}.txt": "".join(f"{language} {name}\n" for name in names)
        for language in languages
    }
    return {"XTD10/test_image_names.txt": "".join(f"{name}\n" for name in names), **captions}


def loaded(root):
    return load_dataset(DatasetConfig(dataset="xtd10", root=root))


def test_a_line_is_an_image_in_every_file(tmp_path):
    make(tmp_path, files() | {"val2014/COCO_val2014_000000000042.jpg": "B", "train2017/000000516750.jpg": "A"})
    dataset = loaded(tmp_path)
    assert dataset.image_ids == ["516750", "42"]
    assert dataset.image_files == ["train2017/000000516750.jpg", "val2014/COCO_val2014_000000000042.jpg"]
    assert {SPLITS[code] for code in dataset.image_splits} == {"test"}
    languages = ["de", "en", "es", "fr", "it", "ja", "ko", "pl", "ru", "tr", "zh"]
    assert dataset.caption_ids == [f"{language}:{name}" for name in ("516750", "42") for language in languages]
    assert dataset.captions[0] == f"de {NAMES[0]}"
    assert dataset.captions[5 + 11] == f"jp {NAMES[1]}"
    assert dataset.caption_images.tolist() == [0] * 11 + [1] * 11
    assert not len(dataset.missing_rows())


def test_other_numbers_than_the_published_ones_are_said(tmp_path):
    make(tmp_path, files(languages=("en", "de")))
    assert loaded(tmp_path).remarks == (
        "2 images (published: 1,000)",
        "de has 2 captions (published: 1,000)",
        "en has 2 captions (published: 1,000)",
    )


def test_a_whole_set_has_nothing_to_say(tmp_path):
    make(tmp_path, files([f"COCO_train2014_{number:012d}.jpg" for number in range(1, 1_001)]))
    dataset = loaded(tmp_path)
    assert dataset.remarks == ()
    assert (len(dataset.image_ids), len(dataset.captions)) == (1_000, 11_000)


def test_what_is_missing_or_malformed_is_one_clear_line(tmp_path):
    fetch = (
        "Clone https://github.com/adobe-research/Cross-lingual-Test-Dataset-XTD10 there, put or link COCO's train2014 "
        "and val2014 beside it, or say where they are with --root."
    )
    changes = [
        ({}, f"XTD10's test_image_names.txt is not in {tmp_path} or the folders in it. {fetch}"),
        (
            {"test_image_names.txt": "a.jpg\n"},
            f"XTD10's test_1kcaptions_en.txt and the like is not in {tmp_path} or the folders in it. {fetch}",
        ),
        (
            {"test_1kcaptions_en.txt": "one\ntwo\n"},
            f"{tmp_path}/test_image_names.txt, line 1 is 'a.jpg'; expected a name of COCO's images of 2014.",
        ),
        (
            {"test_image_names.txt": f"{NAMES[0]}\n"},
            f"{tmp_path}/test_1kcaptions_en.txt has 2 lines, and test_image_names.txt has 1; expected a caption an "
            f"image: download it again.",
        ),
        (
            {"x/test_1kcaptions_en.txt": "one\n"},
            f"{tmp_path} has the captions of en twice: test_1kcaptions_en.txt, x/test_1kcaptions_en.txt; take one of "
            f"them away.",
        ),
    ]
    for change, message in changes:
        make(tmp_path, change)
        with pytest.raises(DatasetError) as caught:
            loaded(tmp_path)
        assert str(caught.value) == message


def test_its_folder_is_not_read_as_data_of_ones_own(tmp_path):
    make(tmp_path, {"test_image_names.txt": "x"})
    with pytest.raises(DatasetError) as caught:
        load(tmp_path)
    assert str(caught.value) == (
        f"{tmp_path} has the annotations of xtd10; read it with: --dataset xtd10 --root {tmp_path}"
    )
