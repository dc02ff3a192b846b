import pytest

from clipret.errors import DatasetError
from tests.helpers.own_data import METADATA, METADATA_CSV, lines, load, make

ONE = {"a.jpg": "", "a.txt": "a caption"}
NAMED = {"train/metadata.jsonl": lines({"file_name": "a.jpg", "text": "one", "split": "train"})}
MALFORMED = {
    "empty": (
        {},
        "PATH has no images; expected files ending in .bmp, .gif, .jpeg, .jpg, .png, .tif, .tiff, .webp.",
    ),
    "other-files": (
        {"a.txt": "a caption", "a.heic": ""},
        "PATH has no images; expected files ending in .bmp, .gif, .jpeg, .jpg, .png, .tif, .tiff, .webp.",
    ),
    "empty-shard": ({"a.tar": ""}, "PATH/a.tar is an empty file; expected a tar file: download it again."),
    "table-of-another-name": (
        {"a.jpg": "", "shop.csv": "image,caption\na.jpg,one\n", "x/more.json": "[]"},
        "none of the 1 images in PATH has a caption; expected a metadata.jsonl, or beside an image a text file of the "
        "same name, such as a.txt. It has shop.csv, x/more.json: give the one with the captions, as --dataset "
        "PATH/shop.csv",
    ),
    "saved-data-sets": (
        {"a/state.json": "{}", "a/dataset_info.json": "{}", "b/state.json": "{}"},
        "PATH has no images; expected files ending in .bmp, .gif, .jpeg, .jpg, .png, .tif, .tiff, .webp. It has "
        "folders of save_to_disk, a, b, and no dataset_dict.json: give one, as --dataset PATH/a",
    ),
    "shards-beside-images": (
        {"a.jpg": "", "x/0.tar": ""},
        "none of the 1 images in PATH has a caption; expected a metadata.jsonl, or beside an image a text file of the "
        "same name, such as a.txt. It has x/0.tar: give the shards, as --dataset PATH/x/0.tar",
    ),
    "two-tables-of-a-split": (
        {"a.jpg": "", "train.csv": "image,caption\na.jpg,x\n", "training.jsonl": ""},
        "PATH has train.csv, training.jsonl for the split train; expected one table for it.",
    ),
    "two-caption-files": (
        {"Images/a.jpg": "", "captions.txt": "image,caption\na.jpg,x\n", "Flickr8k.token.txt": "a.jpg#0\tx\n"},
        "PATH has the caption files Flickr8k.token.txt, captions.txt; expected one: move the others away.",
    ),
    "an-image-in-two-tables": (
        {"a.jpg": "", "train.csv": "image,caption\na.jpg,x\n", "test.csv": "image,caption\na.jpg,y\n"},
        "PATH: 1 images of test.csv are in other tables too, first a.jpg in train.csv; expected each image in one "
        "split.",
    ),
    "a-table-against-its-name": (
        {"a.jpg": "", "test.csv": "image,caption,split\na.jpg,x,train\n"},
        "PATH/test.csv: 1 images have another split than their table's, test: a.jpg; expected the same, or no column "
        "`split`.",
    ),
    "a-table-without-captions": (
        {"a.jpg": "", "test.csv": "image,label\na.jpg,x\n"},
        "PATH/test.csv has no column `caption`; its columns are: image, label. Say which they are with --columns "
        "caption=NAME",
    ),
    "an-empty-caption-file": ({"a.jpg": "", "captions.txt": ""}, "PATH/captions.txt is empty; download it again."),
    "a-caption-file-of-something-else": (
        {"a.jpg": "", "captions.txt": "a dog\na cat\n"},
        "PATH/captions.txt, line 1: found the columns 'a dog'; expected one of image, image_name, filename and one of "
        "caption, comment, raw.",
    ),
    "no-captions": (
        {"b.c/x.y.jpg": "", "b.c/z.txt": "a caption"},
        "none of the 1 images in PATH has a caption; expected a metadata.jsonl, or beside an image a text file of the "
        "same name, such as b.c/x.y.txt.",
    ),
    "blank-captions": (
        {"a.jpg": "", "a.txt": " \n\n"},
        "none of the 1 images in PATH has a caption; expected a metadata.jsonl, or beside an image a text file of the "
        "same name, such as a.txt.",
    ),
    "two-images": (
        {**ONE, "a.PNG": "", "b/x.gif": "", "b/x.bmp": "", "b/a.jpg": ""},
        "PATH: 2 pairs of files differ only in their endings: a.PNG and a.jpg, b/x.bmp and b/x.gif; give them "
        "different names, as a text file belongs to the image with the same name.",
    ),
    "two-texts": (
        {**ONE, "a.TXT": "another"},
        "PATH: 1 pairs of files differ only in their endings: a.TXT and a.txt; give them different names, as a text "
        "file belongs to the image with the same name.",
    ),
    "not-utf-8": (
        {**ONE, "a.txt": b"ab\xff"},
        "PATH/a.txt is not UTF-8 text: byte 2 is 0xff; save it as UTF-8 (iconv -t utf-8).",
    ),
    "nul": (
        {**ONE, "a.txt": "a\0b"},
        "data set 'made': a caption of image 'a.jpg' has a NUL character: 'a\\x00b'; fix it.",
    ),
    "some-splits": (
        {f"{place}.{kind}": "a caption" for place in ("train/a", "test/b", "cats/c", "d") for kind in ("jpg", "txt")},
        "PATH: 2 of 4 images are outside the folders that name a split (test, train): cats/c.jpg, d.jpg; move them "
        "into one, or go by a hash with --split hash.",
    ),
    "name-with-line-break": (
        {"a\nb.jpg": "", "a\nb.txt": "a caption"},
        "data set 'made': the id of image 'a\\nb.jpg' has a line break: 'a\\nb.jpg'; fix it.",
    ),
    "two-metadata-files": (
        {"metadata.csv": METADATA_CSV, "metadata.jsonl": lines(*METADATA)},
        "PATH has metadata.csv, metadata.jsonl; expected one metadata file, or one in each split's folder.",
    ),
    "two-metadata-places": (
        {"metadata.jsonl": lines(*METADATA), **NAMED},
        "PATH has metadata.jsonl, train/metadata.jsonl; expected one metadata file, or one in each split's folder.",
    ),
    "metadata-in-one-split": (
        {**NAMED, "test/a.jpg": "", "val/b.jpg": ""},
        "PATH has train/metadata.jsonl, and no metadata file in test, val; expected one in each.",
    ),
    "metadata-against-its-folder": (
        {"test/metadata.jsonl": NAMED["train/metadata.jsonl"]},
        "PATH/test/metadata.jsonl: 1 images have another split than their folder's, test: test/a.jpg; expected the "
        "same, or no column `split`.",
    ),
    "metadata-without-name": (
        {"metadata.jsonl": lines({"image": "a.jpg", "text": "one"})},
        "PATH/metadata.jsonl has no column `file_name`; its columns are: image, text. "
        "Say which they are with --columns image=image",
    ),
    "metadata-without-text": (
        {"metadata.csv": "file_name,label\na.jpg,3\n"},
        "PATH/metadata.csv has no column `text`; its columns are: file_name, label. "
        "Say which they are with --columns caption=NAME",
    ),
    "metadata-with-two-texts": (
        {"metadata.csv": "file_name,text,caption\na.jpg,one,two\n"},
        "PATH/metadata.csv has columns text and caption; expected one for the caption: name it with --columns "
        "caption=NAME, or take the other out.",
    ),
    "metadata-that-leads-out": (
        {
            "train/metadata.jsonl": lines(
                {"file_name": "../../a.jpg", "text": "one"}, {"file_name": "/b.jpg", "text": ""}
            )
        },
        "data set 'made': 2 image files are outside PATH: train/../../a.jpg, /b.jpg; expected paths relative to it, "
        "with forward slashes and without `..`.",
    ),
    "ids-of-two-splits": (
        {
            f"{place}/metadata.jsonl": lines({"file_name": "a.jpg", "text": "one", "id": 1})
            for place in ("train", "test")
        },
        "data set 'made': 1 image ids are used by more than one image: 1; every image needs its own id.",
    ),
    "metadata-in-some-splits": (
        {"metadata.jsonl": lines({"file_name": "train/a.jpg", "text": "one"}, {"file_name": "b.jpg", "text": "two"})},
        "PATH: 1 of 2 images are outside the folders that name a split (train): b.jpg; move them into one, or go by a "
        "hash with --split hash.",
    ),
}


@pytest.mark.parametrize(("files", "message"), MALFORMED.values(), ids=MALFORMED)
def test_a_malformed_folder_is_one_clear_line(tmp_path, files, message):
    folder = tmp_path / "made"
    folder.mkdir()
    with pytest.raises(DatasetError) as caught:
        load(make(folder, files))
    assert str(caught.value) == message.replace("PATH", str(folder))


def test_gigabytes_of_captions_are_not_read(tmp_path):
    folder = make(tmp_path / "made", ONE)
    with (folder / "a.txt").open("r+b") as file:
        file.truncate(3 << 30)
    with pytest.raises(DatasetError) as caught:
        load(folder)
    assert str(caught.value) == (
        f"{folder}/a.txt has 3,221,225,472 bytes, over 16,777,216; expected the captions of one image."
    )


def test_a_folder_of_nothing_but_links_says_so(tmp_path):
    (tmp_path / "x.jpg").touch()
    (tmp_path / "made").mkdir()
    (tmp_path / "made" / "a.jpg").symlink_to(tmp_path / "x.jpg")
    with pytest.raises(DatasetError) as caught:
        load(tmp_path / "made")
    assert str(caught.value) == (
        f"{tmp_path / 'made'} has no images; expected files ending in .bmp, .gif, .jpeg, .jpg, .png, .tif, .tiff, "
        f".webp. Left out: a.jpg, which point outside it or nowhere."
    )


def test_a_split_that_is_asked_for_has_to_be_given(tmp_path):
    folder = make(tmp_path, ONE)
    with pytest.raises(DatasetError) as caught:
        load(folder, split="given")
    assert str(caught.value) == (
        f"--split is 'given', and {folder} does not say which split its images are in; expected all images in folders "
        f"named train, val and test, or use --split hash."
    )


def test_a_root_beside_a_folder_of_images_is_refused(tmp_path):
    folder = make(tmp_path / "made", ONE)
    assert load(folder, root=folder).image_files == ["a.jpg"]
    with pytest.raises(DatasetError) as caught:
        load(folder, root=tmp_path)
    assert str(caught.value) == (
        f"--root is {tmp_path}, and the images are those in {folder}; leave --root out, or give a table as --dataset."
    )


def test_a_folder_that_cannot_be_read_is_named(tmp_path, monkeypatch):
    folder = make(tmp_path, {"deep/a.jpg": ""})

    def refused(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("clipret.datasets.folder_files.os.scandir", refused)
    with pytest.raises(DatasetError) as caught:
        load(folder)
    assert str(caught.value) == f"{folder} cannot be read: Permission denied."
