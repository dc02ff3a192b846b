import builtins
from pathlib import Path

import numpy as np
import pyarrow
import pytest

from clipret.cache import FeatureCache
from clipret.config import SPLITS
from clipret.datasets.containers import split_container
from clipret.datasets.embedded import fits_embedded
from clipret.errors import DatasetError
from clipret.images import ImageReader, read_file
from clipret.protocols.protocol import make_protocol
from tests.conftest import contents, write_cache
from tests.helpers.hub import image, images, picture, save_to_disk, write_arrow, write_parquet
from tests.helpers.own_data import load, write

RED, GREEN, BLUE = (image(colour, f"{colour}.png") for colour in ("red", "green", "blue"))
CAPTIONS = {
    "a list": {"caption": [["one", "two"], ["three"], ["four", "five"]]},
    "captions": {"captions": [["one", "two"], ["three"], ["four", "five"]]},
    "JSON text": {"text": ['["one", "two"]', '["three"]', '["four", "five"]']},
    "Python text": {"caption": ["['one', 'two']", "['three']", "['four', 'five']"]},
    "numbered": {"caption_0": ["one", "three", "four"], "caption_1": ["two", None, "five"]},
    "structures": {
        "caption": [[{"raw": "one"}, {"raw": "two"}], [{"raw": "three"}], [{"raw": "four"}, {"raw": "five"}]]
    },
}


@pytest.mark.parametrize("form", CAPTIONS)
def test_captions_come_as_people_have_them(tmp_path, form):
    write_parquet(tmp_path / "a.parquet", {"image": images([RED, GREEN, BLUE]), **CAPTIONS[form]})
    dataset = load(tmp_path / "a.parquet")
    assert dataset.captions == ["one", "two", "three", "four", "five"]
    assert dataset.caption_images.tolist() == [0, 0, 1, 2, 2]
    assert dataset.image_ids == ["red.png", "green.png", "blue.png"]
    assert dataset.image_files == [f"a.parquet/image#{row}/{name}" for row, name in enumerate(dataset.image_ids)]
    assert not len(dataset.missing_rows())
    assert dataset.split_rule == "hash 80/10/10 of the images' names"


IMAGES = {
    "structures": images([RED, GREEN, BLUE]),
    "large": pyarrow.array([RED, GREEN, BLUE], pyarrow.struct([("bytes", pyarrow.large_binary()), ("path", "string")])),
    "bytes": [cell["bytes"] for cell in (RED, GREEN, BLUE)],
    "dictionary": pyarrow.array([cell["bytes"] for cell in (RED, GREEN, BLUE)]).dictionary_encode(),
    "lists": [[RED], [GREEN], [BLUE]],
    "lists of bytes": [[cell["bytes"]] for cell in (RED, GREEN, BLUE)],
}


@pytest.mark.parametrize("name", ["image", "jpg"])
@pytest.mark.parametrize("form", IMAGES)
def test_images_come_as_people_have_them(tmp_path, form, name):
    write_parquet(tmp_path / "a.parquet", {name: IMAGES[form], "caption": ["one", "two", "three"]})
    dataset = load(tmp_path / "a.parquet")
    assert [read_file(file, root=dataset.root) for file in dataset.image_files] == [
        picture(colour) for colour in ("red", "green", "blue")
    ]
    assert dataset.remarks == (() if name == "image" else ("the images are those in column `jpg`",))


def test_a_reader_of_pixels_reads_them_in_place(tmp_path):
    write_parquet(tmp_path / "a.parquet", {"image": images([RED, None, BLUE]), "caption": ["one", "two", "three"]})
    dataset = load(tmp_path / "a.parquet")
    reader = ImageReader(
        files=dataset.image_files, root=tmp_path, crop=lambda image: image.convert("RGB"), background="clip", side=8
    )
    pixels, problems, _, _ = reader.read([0, 1])
    assert not problems
    assert pixels[:, 0, 0].tolist() == [[255, 0, 0], [0, 0, 255]]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.parquet"]


def folder_of(path):
    write_parquet(path / "data/train-00000-of-00002.parquet", {"image": images([RED]), "caption": [["one"]]})
    write_parquet(path / "data/train-00001-of-00002.parquet", {"image": images([GREEN]), "caption": [["two"]]})
    write_parquet(path / "data/validation-00000-of-00001.parquet", {"image": images([BLUE]), "caption": [["three"]]})
    return path


def test_a_folder_of_files_is_one_table_split_by_their_names(tmp_path):
    dataset = load(folder_of(tmp_path / "shop"))
    assert dataset.name == "shop"
    assert dataset.image_ids == ["red.png", "green.png", "blue.png"]
    assert [SPLITS[code] for code in dataset.image_splits] == ["train", "train", "val"]
    assert dataset.split_rule == "given"
    assert dataset.image_files[1] == "data/train-00001-of-00002.parquet/image#0/green.png"
    assert load(tmp_path / "shop", split="hash").split_rule == "hash 80/10/10 of the images' names"


def test_a_hubs_cache_of_links_is_read(tmp_path):
    folder_of(tmp_path / "blobs")
    (tmp_path / "snapshot/data").mkdir(parents=True)
    for blob in (tmp_path / "blobs/data").iterdir():
        (tmp_path / "snapshot/data" / blob.name).symlink_to(blob)
    dataset = load(tmp_path / "snapshot")
    assert dataset.image_ids == ["red.png", "green.png", "blue.png"]
    assert not len(dataset.missing_rows())


def test_a_column_of_splits_counts_before_the_names_of_files(tmp_path):
    columns = {"image": images([RED, GREEN]), "caption": ["one", "two"], "split": ["TRAIN", "dev"]}
    write_parquet(tmp_path / "TEST-00000-of-00001.parquet", columns)
    dataset = load(tmp_path)
    assert [SPLITS[code] for code in dataset.image_splits] == ["train", "val"]
    assert "the splits are the column's, not those of the file names: TEST-00000-of-00001.parquet" in dataset.remarks


def test_an_image_of_several_rows_is_one_by_its_id(tmp_path):
    cells = [RED, GREEN, {**RED, "path": "copy.png"}]
    write_parquet(tmp_path / "a.parquet", {"image": images(cells), "text": ["one", "two", "three"], "id": [7, 8, 7]})
    dataset = load(tmp_path / "a.parquet")
    assert (dataset.image_ids, dataset.captions) == (["7", "8"], ["one", "three", "two"])
    assert dataset.caption_images.tolist() == [0, 0, 1]


def test_an_id_of_two_different_images_is_refused(tmp_path):
    path = tmp_path / "a.parquet"
    write_parquet(path, {"image": images([RED, GREEN]), "text": ["one", "two"], "id": [7, 7]})
    with pytest.raises(DatasetError) as caught:
        load(path)
    assert str(caught.value) == (
        f"{path}, row 1: id 7 is of a.parquet/image#1/green.png here, and of a.parquet/image#0/red.png on row 0; "
        f"expected one file an id."
    )


@pytest.mark.parametrize("name", ["same.png", None])
def test_rows_with_the_same_image_are_one_image_across_files(tmp_path, name):
    red, green = {**RED, "path": name}, {**GREEN, "path": name}
    write_parquet(tmp_path / "x/train-0.parquet", {"image": images([red, green]), "caption": ["one", "two"]})
    write_parquet(tmp_path / "x/train-1.parquet", {"image": images([green, red]), "caption": ["three", "four"]})
    dataset = load(tmp_path / "x", split="hash")
    tail = f"/{name}" if name else ""
    assert dataset.image_files == [f"train-0.parquet/image#{row}{tail}" for row in (0, 1)]
    assert dataset.image_ids == dataset.image_files
    assert dataset.captions == ["one", "four", "two", "three"]


def test_equal_images_without_names_stay_apart_in_different_splits(tmp_path):
    for split in ("train", "test"):
        write_parquet(tmp_path / f"{split}.parquet", {"image": images([image("red")]), "caption": ["one"]})
    assert len(load(tmp_path).image_ids) == 2


def test_a_caption_of_several_images_is_a_caption_of_each(tmp_path):
    write_parquet(tmp_path / "a.parquet", {"images": [[RED, GREEN], [BLUE]], "caption": [["one", "two"], ["three"]]})
    dataset = load(tmp_path / "a.parquet")
    assert dataset.image_files == [
        "a.parquet/images#0.0/red.png",
        "a.parquet/images#0.1/green.png",
        "a.parquet/images#1.0/blue.png",
    ]
    assert dataset.captions == ["one", "two", "one", "two", "three"]
    assert dataset.caption_images.tolist() == [0, 0, 1, 1, 2]
    assert dataset.remarks[-1] == (
        "1 row with several images: a.parquet#0; their captions match all of these by --protocol split-equal-texts"
    )
    made = contents(images=3, **dataset.columns | {"image_splits": np.full(3, SPLITS.index("test"), dtype=np.uint8)})
    cache = FeatureCache(write_cache(tmp_path / "made.h5", made))
    (fold,) = make_protocol(cache, "split-equal-texts").folds
    assert sorted(zip(*map(np.ndarray.tolist, fold.matches["t2i"]), strict=True)) == [
        *((text, picture) for text in range(4) for picture in (0, 1)),
        (4, 2),
    ]


@pytest.mark.parametrize("write", [write_parquet, None])
def test_rows_without_an_image_are_left_out_with_a_remark(tmp_path, write):
    cells = images([RED, None, {"bytes": None, "path": None}, BLUE])
    columns = {"image": cells, "caption": ["one", "two", "three", "four"]}
    file, path = ("a.parquet", tmp_path / "a.parquet") if write else ("data-00000-of-00001.arrow", tmp_path / "saved")
    (write or save_to_disk)(path, columns)
    dataset = load(path)
    assert dataset.image_ids == ["red.png", "blue.png"]
    assert dataset.remarks == (f"left out 2 rows whose `image` has no image: {file}#1, {file}#2",)


def test_images_that_are_named_and_not_inside_are_files(tmp_path):
    write(tmp_path / "red.png", picture("red"))
    cells = images([{"bytes": None, "path": "red.png"}, BLUE])
    write_parquet(tmp_path / "a.parquet", {"image": cells, "caption": ["one", "two"]})
    dataset = load(tmp_path / "a.parquet")
    assert dataset.image_files == ["red.png", "a.parquet/image#1/blue.png"]
    assert not len(dataset.missing_rows())


def test_a_table_of_paths_with_other_bytes_is_a_table_of_paths(tmp_path):
    columns = {"image": ["a.jpg"], "caption": ["one"], "thumbnail": images([RED])}
    write_parquet(tmp_path / "a.parquet", columns)
    assert fits_embedded(tmp_path / "a.parquet")
    assert load(tmp_path / "a.parquet").image_files == ["a.jpg"]
    dataset = load(tmp_path / "a.parquet", columns="image=thumbnail")
    assert dataset.image_files == ["a.parquet/thumbnail#0/red.png"]


def test_many_rows_are_all_read_in_order(tmp_path):
    generator = np.random.default_rng(0)
    contents = [generator.bytes(100) for _ in range(500)]
    cells = images([{"bytes": content, "path": None} for content in contents])
    write_parquet(
        tmp_path / "a.parquet", {"image": cells, "caption": [[str(row)] for row in range(500)]}, row_group_size=90
    )
    dataset = load(tmp_path / "a.parquet")
    assert dataset.captions == [str(row) for row in range(500)]
    assert [read_file(file, root=tmp_path) for file in dataset.image_files] == contents
    assert {split_container(file)[0] for file in dataset.image_files} == {"a.parquet"}


REFUSED = {
    "two-columns": (
        {"left": images([RED]), "right": images([RED]), "caption": ["one"]},
        {},
        "PATH has images in the columns left, right; say which are meant: --columns image=left",
    ),
    "asked-for-text": (
        {"image": images([RED]), "caption": ["one"], "n": [1]},
        {"columns": "image=n"},
        "PATH: column `n` holds int64; expected images, as in `image`.",
    ),
    "asked-for-nothing": (
        {"image": images([RED]), "caption": ["one"]},
        {"columns": "image=photo"},
        "PATH: column `photo` is not there; expected images, as in `image`.",
    ),
    "no-captions": (
        {"image": images([RED]), "label": [3]},
        {},
        "PATH has no column `caption`; its columns are: image, label. Say which they are with "
        "--columns image=image,caption=NAME",
    ),
    "labels-for-captions": (
        {"image": images([RED]), "caption": [3]},
        {},
        "PATH: column `caption` holds int64; expected text or lists of texts, as the caption.",
    ),
    "null-images": (
        {"image": images([None, {"bytes": None}]), "caption": ["one", "two"]},
        {},
        "PATH: none of the 2 rows has an image in `image`; expected bytes, or the path of a file.",
    ),
    "a-root": (
        {"image": images([RED]), "caption": ["one"]},
        {"root": Path("/")},
        "--root is /, and the images are in the files of PATH, or at paths relative to them; leave --root out.",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_read_is_one_clear_line(tmp_path, name):
    columns, settings, message = REFUSED[name]
    path = write_parquet(tmp_path / "a.parquet", columns)
    with pytest.raises(DatasetError) as caught:
        load(path, **settings)
    assert str(caught.value) == message.replace("PATH", str(path))


def test_files_with_other_columns_are_refused(tmp_path):
    write_parquet(tmp_path / "a.parquet", {"image": images([RED]), "caption": ["one"]})
    path = write_parquet(tmp_path / "b.parquet", {"image": images([RED]), "text": ["one"]})
    with pytest.raises(DatasetError) as caught:
        load(tmp_path)
    assert str(caught.value) == (
        f"{path} has no column `caption`, which a.parquet has; expected the same columns in all files of the table."
    )


def test_one_damaged_file_of_several_is_named(tmp_path):
    write_parquet(tmp_path / "a.parquet", {"image": images([RED]), "caption": ["one"]})
    write(tmp_path / "b.parquet", b"PAR1")
    with pytest.raises(DatasetError, match=rf"^{tmp_path}/b.parquet cannot be read as Parquet: .*download it again.$"):
        load(tmp_path)


def test_other_folders_and_files_are_for_other_readers(tmp_path):
    write_parquet(tmp_path / "metadata.parquet", {"file_name": ["a.jpg"], "text": ["one"]})
    write(tmp_path / "broken.parquet", b"")
    write(tmp_path / "a.jpg", b"")
    assert not fits_embedded(tmp_path)
    assert not fits_embedded(tmp_path / "metadata.parquet")
    assert not fits_embedded(tmp_path / "broken.parquet")
    assert not fits_embedded(tmp_path / "gone.parquet")
    assert not fits_embedded(write_arrow(tmp_path / "a.arrow", {"image": images([RED])}))


def test_a_folder_of_one_damaged_file_is_one_clear_line(tmp_path):
    write(tmp_path / "0000.parquet", b"PAR1")
    with pytest.raises(
        DatasetError, match=rf"^{tmp_path}/0000.parquet cannot be read as Parquet: .*download it again.$"
    ):
        load(tmp_path)


@pytest.mark.parametrize("name", ["0000.parquet", "train-00000-of-00001.parquet"])
def test_without_pyarrow_the_command_that_installs_it_is_said(tmp_path, monkeypatch, name):
    path = write_parquet(tmp_path / "hub" / name, {"image": images([RED]), "caption": ["one"]})
    saved = save_to_disk(tmp_path / "saved", {"image": images([RED]), "caption": ["one"]})
    imported = builtins.__import__

    def without_pyarrow(name, *arguments, **others):
        if name.startswith("pyarrow"):
            raise ModuleNotFoundError(name)
        return imported(name, *arguments, **others)

    monkeypatch.setattr(builtins, "__import__", without_pyarrow)
    for place, file, what in (
        (path, path, "Parquet"),
        (path.parent, path, "Parquet"),
        (saved, saved / "data-00000-of-00001.arrow", "Arrow files"),
    ):
        with pytest.raises(DatasetError) as caught:
            load(place)
        assert str(caught.value) == (
            f"{file}: reading {what} needs the package `pyarrow`; run: pip install 'clipret[parquet]'"
        )
