import math
import random

import numpy as np
import pyarrow
import pytest

from clipret.config import SPLITS
from clipret.errors import DatasetError
from tests.helpers.own_data import columns, lines, load, write

# One data set in every form: three images, rows of the first apart, with quotes, commas, line breaks and Unicode.
ROWS = [
    ("images/a.jpg", 'a "red" dog, running', "train", "1"),
    ("b.png", "ein Hund über dem Zaun 🐕", "val", "2"),
    ("images/a.jpg", "one line\nand another", "train", "1"),
    ("c.webp", "", "test", "3"),
    ("./images//a.jpg", "'single' and \ttab", "train", "1"),
    ("c.webp", "  spaces stay ", "test", "3"),
]
FILES = ["images/a.jpg", "b.png", "c.webp"]
CAPTIONS = [
    'a "red" dog, running',
    "one line\nand another",
    "'single' and \ttab",
    "ein Hund über dem Zaun 🐕",
    "  spaces stay ",
]
OWNERS = [0, 0, 0, 1, 2]
CSV = """image,caption,split,id
images/a.jpg,"a ""red"" dog, running",train,1
b.png,ein Hund über dem Zaun 🐕,val,2
images/a.jpg,"one line
and another",train,1
c.webp,,test,3
./images//a.jpg,'single' and \ttab,train,1
c.webp,  spaces stay ,test,3
"""


FORMS = {
    "made.csv": CSV,
    "bom.csv": "\ufeff" + CSV,
    "blank-lines.csv": CSV.replace("b.png", "\n\nb.png"),
    "spaced-header.CSV": CSV.replace("image,caption,split", "image, caption, split", 1),
    "other-order.csv": "id,extra,split,caption,image\n"
    + "".join(
        '{},x,{},"{}",{}\n'.format(name, split, caption.replace('"', '""'), image)
        for image, caption, split, name in ROWS
    ),
    "made.tsv": "image\tcaption\tsplit\tid\n"
    + "".join('{}\t"{}"\t{}\t{}\n'.format(row[0], row[1].replace('"', '""'), *row[2:]) for row in ROWS),
    "made.jsonl": lines(*(dict(zip(("image", "caption", "split", "id"), row, strict=True)) for row in ROWS)),
    "numbers.ndjson": lines(
        *({"id": int(row[3]), "image": row[0], "split": row[2], "caption": row[1]} for row in ROWS)
    ).replace("\n", "\n\n"),
    "lists.jsonl": lines(
        {"image": "images/a.jpg", "caption": CAPTIONS[:3], "split": "training", "id": "1"},
        {"image": "b.png", "caption": CAPTIONS[3], "split": "dev", "id": "2"},
        {"image": "c.webp", "caption": ["", CAPTIONS[4]], "split": "TESTING", "id": "3"},
    ),
    "made.parquet": columns(ROWS),
    "numbers.parquet": columns([(*row[:3], int(row[3])) for row in ROWS]),
    "categories.parquet": {name: pyarrow.array(cells).dictionary_encode() for name, cells in columns(ROWS).items()},
    "lists.parquet": {
        "image": FILES,
        "caption": [CAPTIONS[:3], CAPTIONS[3:4], ["", CAPTIONS[4]]],
        "split": ["train", "valid", "test"],
        "id": [1, 2, 3],
        "other": [b"\xff", b"", b""],
    },
}


RENAMED = {"lists.jsonl": "training as train, dev as val, TESTING as test", "lists.parquet": "valid as val"}


@pytest.mark.parametrize("name", FORMS)
def test_every_form_gives_the_same_images_captions_and_splits(tmp_path, name):
    dataset = load(write(tmp_path / name, FORMS[name]))
    assert dataset.name == name.split(".")[0]
    assert dataset.root == tmp_path
    assert dataset.image_ids == ["1", "2", "3"]
    assert dataset.image_files == FILES
    assert [SPLITS[code] for code in dataset.image_splits] == ["train", "val", "test"]
    assert dataset.captions == CAPTIONS
    assert dataset.caption_images.tolist() == OWNERS
    assert dataset.caption_ids == ["1#0", "1#1", "1#2", "2#0", "3#1"]
    assert dataset.split_rule == "given"
    *splits, remark = dataset.remarks
    assert remark == "left out 1 empty caption, of 3"
    assert splits == [f"splits under other names: {RENAMED.get(name)}"] * (name in RENAMED)


def test_lines_may_end_as_on_windows_and_line_breaks_within_quotes_stay(tmp_path):
    dataset = load(write(tmp_path / "made.csv", 'image,caption\r\na.jpg,"one\r\ntwo"\r\nb.jpg,three\r\n'))
    assert dataset.captions == ["one\r\ntwo", "three"]
    assert dataset.image_files == ["a.jpg", "b.jpg"]


def test_ids_default_to_the_files(tmp_path):
    dataset = load(write(tmp_path / "made.csv", "image,caption\n./x/a.jpg,one\nb.jpg,two\nx/a.jpg,three\n"))
    assert dataset.image_ids == dataset.image_files == ["x/a.jpg", "b.jpg"]
    assert dataset.captions == ["one", "three", "two"]


def test_the_columns_can_have_other_names(tmp_path):
    path = write(tmp_path / "made.csv", "key,fold,path,raw\n7,test,a.jpg,one\n8,train,b.jpg,two\n")
    dataset = load(path, columns="image=path,caption=raw,split=fold,id=key")
    assert dataset.image_ids == ["7", "8"]
    assert dataset.image_files == ["a.jpg", "b.jpg"]
    assert dataset.captions == ["one", "two"]
    assert dataset.image_splits.tolist() == [SPLITS.index("test"), SPLITS.index("train")]


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_a_column_of_caption_ids_can_be_passed_over(tmp_path, ending):
    content = {"image": ["a.jpg", "a.jpg"], "caption": ["one", "two"], "id": ["1", "2"]}
    if ending == "csv":
        content = "image,caption,id\na.jpg,one,1\na.jpg,two,2\n"
    assert load(write(tmp_path / f"made.{ending}", content), columns="id=image").image_ids == ["a.jpg"]


def test_the_root_can_be_another_folder(tmp_path):
    (tmp_path / "images").mkdir()
    dataset = load(write(tmp_path / "made.csv", "image,caption\na.jpg,one\n"), root=tmp_path / "images")
    assert dataset.root == tmp_path / "images"
    assert dataset.missing_rows().tolist() == [0]
    (tmp_path / "images" / "a.jpg").touch()
    assert dataset.missing_rows().tolist() == []


def test_images_without_captions_are_told_of(tmp_path):
    content = lines({"image": "a.jpg", "caption": []}, {"image": "b.jpg", "caption": "one"})
    dataset = load(write(tmp_path / "made.jsonl", content))
    assert dataset.image_files == ["a.jpg", "b.jpg"]
    assert dataset.remarks == ("1 image without a caption, in the gallery only",)


def test_a_table_without_splits_is_split_by_the_hash_of_its_ids(tmp_path):
    content = "image,caption\n" + "".join(f"{number}.jpg,a caption\n" for number in range(3000))
    dataset = load(write(tmp_path / "made.csv", content))
    assert dataset.split_rule == "hash 80/10/10 of the images' paths"
    np.testing.assert_allclose(np.bincount(dataset.image_splits, minlength=4) / 3000, [0.8, 0.1, 0.1, 0], atol=0.02)


def test_the_tables_splits_can_be_set_aside_for_the_hash(tmp_path):
    content = "image,caption,split\n" + "".join(f"{number}.jpg,a caption,{number % 5 or ''}\n" for number in range(50))
    dataset = load(write(tmp_path / "made.csv", content), split="hash")
    assert dataset.split_rule == "hash 80/10/10 of the images' paths"
    without = load(write(tmp_path / "plain.csv", "image,caption\n" + "".join(f"{n}.jpg,x\n" for n in range(50))))
    assert dataset.image_splits.tolist() == without.image_splits.tolist()


@pytest.mark.parametrize("seed", range(5))
def test_adding_and_removing_rows_moves_no_other_image(tmp_path, seed):
    draw = random.Random(seed)
    rows = [f"{draw.randrange(200)}.jpg,caption {number}" for number in range(600)]
    kept = draw.sample(rows, draw.randrange(1, len(rows)))

    def splits(name, rows):
        dataset = load(write(tmp_path / name, "\n".join(["image,caption", *rows]) + "\n"))
        return dict(zip(dataset.image_ids, dataset.image_splits.tolist(), strict=True))

    whole, fewer = splits("whole.csv", rows), splits("fewer.csv", kept)
    assert len(set(whole.values())) == 3
    assert fewer == {name: whole[name] for name in fewer}


def arrow_kinds():
    pa = pyarrow
    texts, lists = ["dot 0", "dot 1"], [["dot 0", "spot"], ["dot 1", None]]
    view = pa.string_view()
    return {
        "views": (pa.array(["a.jpg", "b.jpg"], view), pa.array(texts, view)),
        "list of views": (["a.jpg", "b.jpg"], pa.array(lists, pa.list_(view))),
        "fixed size": (["a.jpg", "b.jpg"], pa.array(lists, pa.list_(pa.string(), 2))),
        "list view": (["a.jpg", "b.jpg"], pa.array(lists, pa.list_view(pa.string()))),
        "large list view": (["a.jpg", "b.jpg"], pa.array(lists, pa.large_list_view(pa.string()))),
    }


@pytest.mark.parametrize("kind", arrow_kinds())
def test_texts_and_lists_of_parquet_are_read_whatever_their_type(tmp_path, kind):
    images, captions = arrow_kinds()[kind]
    write(tmp_path / "t.parquet", {"image": images, "caption": captions})
    dataset = load(tmp_path / "t.parquet")
    assert dataset.image_files == ["a.jpg", "b.jpg"]
    assert dataset.captions == (["dot 0", "dot 1"] if kind == "views" else ["dot 0", "spot", "dot 1"])


@pytest.mark.parametrize(
    ("ids", "expected", "remarks"),
    [
        ([0.0, 7.0], ["0", "7"], ()),
        ([0, None], ["a.jpg", "b.jpg"], ("1 row of 2 without an id, so that the files are the ids",)),
    ],
)
def test_ids_that_nobody_asked_for_do_not_block_a_table(tmp_path, ids, expected, remarks):
    rows = {"id": ids, "image": ["a.jpg", "b.jpg"], "caption": ["one", "two"]}
    write(tmp_path / "t.parquet", rows)
    dataset = load(tmp_path / "t.parquet")
    assert (dataset.image_ids, dataset.remarks) == (expected, remarks)


def test_ids_that_were_asked_for_have_to_be_whole(tmp_path):
    rows = {"id": [0, None], "image": ["a.jpg", "b.jpg"], "caption": ["one", "two"]}
    write(tmp_path / "t.parquet", rows)
    with pytest.raises(DatasetError) as refusal:
        load(tmp_path / "t.parquet", columns="id=id")
    assert str(refusal.value) == (
        f"{tmp_path}/t.parquet: 1 of 2 rows have no id (row 2); give every row one, or take the column out."
    )


@pytest.mark.parametrize("split", [[0, 1], [None, "nonsense"], [1.5, 2.5], [["a"], ["b"]]])
def test_a_split_by_hash_never_looks_at_a_split_column(tmp_path, split):
    rows = {"image": ["a.jpg", "b.jpg"], "caption": ["one", "two"]}
    write(tmp_path / "with.parquet", {**rows, "split": split})
    write(tmp_path / "without.parquet", rows)
    with_column, without = (load(tmp_path / f"{name}.parquet", split="hash") for name in ("with", "without"))
    assert with_column.image_splits.tolist() == without.image_splits.tolist()


@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
def test_captions_in_several_columns_are_read_in_the_order_of_their_names(tmp_path, ending):
    table = {"image": ["a.jpg", "b.jpg"], "caption_0": ["one", "three"], "caption_1": ["two", ""], "n": ["x", "y"]}
    rows = [dict(zip(table, cells, strict=True)) for cells in zip(*table.values(), strict=True)]
    content = {
        "csv": "".join(",".join(cells) + "\n" for cells in (table, *(row.values() for row in rows))),
        "jsonl": lines(*rows),
        "parquet": table,
    }
    path = write(tmp_path / f"made.{ending}", content[ending])
    dataset = load(path, columns="caption=caption_1,caption=caption_0")
    assert dataset.captions == ["two", "one", "three"]
    assert dataset.caption_images.tolist() == [0, 0, 1]
    assert dataset.remarks == ("left out 1 empty caption, of b.jpg",)
    assert load(path).captions == ["one", "two", "three"]
    with pytest.raises(DatasetError, match="has no column `caption_2`; its columns are"):
        load(path, columns="caption=caption_0,caption=caption_2")


@pytest.mark.parametrize("ids", ["12", " 1", "1 ", "nan"])
def test_ids_with_a_gap_read_the_same_in_any_order(tmp_path, ids):
    if ids == "nan":
        path = write(
            tmp_path / "made.parquet", {"image": ["a.jpg", "b.jpg"], "caption": ["x", "y"], "id": [1.0, math.nan]}
        )
    else:
        rows = "".join(f"a.jpg,{text},{name.strip()}\n" for text, name in zip("xy", ids, strict=True))
        path = write(tmp_path / "made.csv", f"image,caption,id\n{rows}")
    if ids == "12":
        with pytest.raises(DatasetError, match=r"line 3: a\.jpg has id 2 here, and has id 1 on line 2"):
            load(path)
        return
    dataset = load(path)
    assert dataset.image_ids == dataset.image_files
    assert dataset.remarks == ("1 row of 2 without an id, so that the files are the ids",)


def test_an_id_of_another_file_is_refused_wherever_it_is_said(tmp_path):
    path = write(tmp_path / "made.csv", "image,caption,id\na.jpg,one,\nb.jpg,two,1\na.jpg,three,1\n")
    with pytest.raises(DatasetError, match=r"line 4: id 1 is of a\.jpg here, and of b\.jpg on line 3"):
        load(path)


def test_paths_that_are_asked_for_as_ids_are_those_that_were_read(tmp_path):
    path = write(tmp_path / "made.csv", f"image,caption\n{tmp_path}/p/a.jpg,one\np\\a.jpg,two\np/a.jpg,three\n")
    dataset = load(path, columns="id=image")
    assert (dataset.image_ids, dataset.captions) == (["p/a.jpg"], ["one", "two", "three"])


def test_a_space_before_quotes_is_refused_as_csv_makes_them_text(tmp_path):
    path = write(tmp_path / "made.csv", 'image, caption\na.jpg, "a dog"\n')
    with pytest.raises(DatasetError) as caught:
        load(path)
    assert str(caught.value) == (
        f"{path}, line 2: a space before the quotes makes them a part of the text: ' \"a dog\"'; take the space out."
    )


def test_a_header_that_may_be_separated_otherwise_says_how_it_was_read(tmp_path):
    path = write(tmp_path / "made.csv", '"image";"caption, long"\na.jpg;one\n'.replace('"', ""))
    with pytest.raises(DatasetError) as caught:
        load(path)
    assert str(caught.value) == (
        f"{path} has no columns `image` and `caption`; its columns are: image;caption, long. Say which they are with "
        "--columns image=NAME,caption=NAME; or, as its cells are taken to be separated by commas, put a line such as "
        "sep=; before the first"
    )


def test_a_header_below_blank_lines_is_the_header(tmp_path):
    dataset = load(write(tmp_path / "made.csv", "\n  \nimage;caption\na.jpg;one\n"))
    assert dataset.captions == ["one"]
    assert dataset.remarks == ("the cells of made.csv are separated by semicolons, not by commas",)
