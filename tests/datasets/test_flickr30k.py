import json

import numpy as np
import pytest

from clipret.config import SPLITS, DatasetConfig
from clipret.datasets import load_dataset
from clipret.datasets.base import split_by_hash
from clipret.datasets.flickr30k_captions import read_captions
from clipret.errors import DatasetError

FILES = ("1000092795.jpg", "10002456.jpg", "1000268201.jpg")
TEXTS = {
    "1000092795.jpg": ["Two young guys with shaggy hair look at their hands .", 'A "quoted" man , and | another .'],
    "10002456.jpg": ["Several men in hard hats are operating a giant pulley system .", "Workers look down ."],
    "1000268201.jpg": ["A child in a pink dress is climbing up stairs .", "A little girl in a p\u00fcnk dress ."],
}
SPLIT_OF = dict(zip(FILES, ("train", "test", "val"), strict=True))
HASH_RULE = "hash, about 29,783/1,000/1,000 of 31,783 images, not Karpathy's"


def karpathy(*, files=FILES, first_sentence=0):
    """As published: every field of it, the sentences counted through the file."""
    images, sentence = [], first_sentence
    for number, file in enumerate(files):
        own = range(sentence, sentence + len(TEXTS[file]))
        sentences = [
            {"tokens": text.lower().split(), "raw": text, "imgid": number, "sentid": place}
            for place, text in zip(own, TEXTS[file], strict=True)
        ]
        images.append(
            {"sentids": list(own), "imgid": number, "sentences": sentences, "split": SPLIT_OF[file], "filename": file}
        )
        sentence += len(own)
    return {"images": images, "dataset": "flickr30k"}


def rows():
    """(file, number, text), the captions of an image in no order and the images mixed."""
    return [(file, place, TEXTS[file][place]) for place in (1, 0) for file in FILES]


def quoted(text):
    return '"' + text.replace('"', '""') + '"'


# How the rows are written, by the name of the file.
FORMS = {
    "results_20130124.token": lambda: "".join(f"{file}#{place}\t{text}\n" for file, place, text in rows()),
    "results.csv": lambda: (
        "image_name| comment_number| comment\n" + "".join(f"{file}| {place}| {text}\n" for file, place, text in rows())
    ),
    "captions.txt": lambda: (
        "image_name,comment_number,comment\n"
        + "".join(f"{file},{place},{quoted(f' {text}')}\n" for file, place, text in rows())
    ),
}


@pytest.fixture
def root(tmp_path):
    (tmp_path / "flickr30k-images").mkdir()
    for file in FILES:
        (tmp_path / "flickr30k-images" / file).write_bytes(b"not opened")
    return tmp_path


def load(root, **settings):
    return load_dataset(DatasetConfig("flickr30k", root=root, **settings))


def refusal(root, **settings):
    with pytest.raises(DatasetError) as caught:
        load(root, **settings)
    return str(caught.value)


def write(root, name, content):
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


def captions_of(dataset):
    return {
        file: [dataset.captions[text] for text in np.flatnonzero(dataset.caption_images == row)]
        for row, file in enumerate(dataset.image_ids)
    }


def test_karpathys_file_gives_its_order_splits_and_sentence_ids(root):
    write(root, "dataset_flickr30k.json", karpathy(files=FILES[::-1], first_sentence=70))
    dataset = load(root)
    assert dataset.name == "flickr30k"
    assert dataset.split_rule == "Karpathy's split"
    assert dataset.image_ids == ["1000268201", "10002456", "1000092795"]
    assert dataset.image_files == [f"flickr30k-images/{file}" for file in FILES[::-1]]
    assert [SPLITS[code] for code in dataset.image_splits] == ["val", "test", "train"]
    assert dataset.captions == [text for file in FILES[::-1] for text in TEXTS[file]]
    assert dataset.caption_images.tolist() == [0, 0, 1, 1, 2, 2]
    assert dataset.caption_ids == ["70", "71", "72", "73", "74", "75"]
    assert dataset.remarks == ()
    assert dataset.missing_rows().tolist() == []
    assert dataset.annotation_sha256 == load(root, split="karpathy").annotation_sha256


@pytest.mark.parametrize("name", FORMS)
def test_every_form_gives_the_same_images_captions_and_splits(root, name):
    write(root, name, FORMS[name]())
    dataset = load(root, split="hash")
    assert dataset.name == "flickr30k-hash"
    assert dataset.split_rule == HASH_RULE
    assert dataset.image_ids == ["1000092795", "10002456", "1000268201"]
    assert dataset.image_files == [f"flickr30k-images/{file}" for file in FILES]
    assert dataset.captions == [text for file in FILES for text in TEXTS[file]]
    assert dataset.caption_images.tolist() == [0, 0, 1, 1, 2, 2]
    assert dataset.caption_ids == [
        "1000092795#0",
        "1000092795#1",
        "10002456#0",
        "10002456#1",
        "1000268201#0",
        "1000268201#1",
    ]
    assert dataset.remarks == ()


def test_captions_without_numbers_keep_their_order(root):
    lines = [f"{file},{quoted(TEXTS[file][place])}" for file, place, _ in rows()]
    write(root, "captions.txt", "\n".join(["image,caption", *lines]))
    dataset = load(root)
    assert captions_of(dataset) == {file[:-4]: TEXTS[file][::-1] for file in FILES}
    assert dataset.caption_ids[:2] == ["1000092795#0", "1000092795#1"]


@pytest.mark.parametrize(
    "header", ["IMAGE_NAME| Comment_Number |COMMENT", " filename |comment_number| raw", "image|caption_number|caption"]
)
def test_columns_go_by_their_usual_names(root, header):
    write(root, "results.csv", f"{header}\n1.jpg| 0| a dog\n")
    assert load(root).captions == ["a dog"]


def test_columns_may_come_in_any_order(root):
    write(root, "captions.csv", "caption,comment_number,image\na dog,1,1.jpg\na cat,0,1.jpg\n")
    assert load(root).captions == ["a cat", "a dog"]


def test_line_endings_and_a_byte_order_mark_change_nothing(root):
    for name, write_form in FORMS.items():
        path = write(root, name, write_form())
        expected = read_captions(path)
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n") + b"\r\n")
        assert read_captions(path) == expected


def test_only_line_breaks_end_a_line(root):
    write(root, "results_20130124.token", "1.jpg#0\ta\u2028dog\x0b and\x85 more\n")
    assert load(root).captions == ["a\u2028dog\x0b and\x85 more"]


@pytest.mark.parametrize(
    ("name", "header", "row"),
    [
        ("results.csv", "image_name| comment_number| comment", "2199200615.jpg| 4   A dog runs across the grass ."),
        ("captions.txt", "image_name,comment_number,comment", "2199200615.jpg, 4   A dog runs across the grass .,"),
        ("captions.txt", "image_name,comment_number,comment", "2199200615.jpg, 4   A dog runs across the grass ."),
    ],
)
def test_the_row_without_its_second_separator_is_read_as_meant_and_told(root, name, header, row):
    first = row.replace("4   A dog runs across the grass .", f"3{'|' if '|' in row else ','} A dog .").rstrip(",")
    write(root, name, f"{header}\n{first}\n{row}\n")
    dataset = load(root, split="hash")
    assert dataset.captions == ["A dog .", "A dog runs across the grass ."]
    assert dataset.caption_ids == ["2199200615#3", "2199200615#4"]
    assert dataset.remarks == (
        f"1 rows of {name} have no separator between number and text, and were read all the same: lines 3",
    )


def test_without_karpathys_file_the_split_is_by_hash_and_told(root):
    write(root, "results_20130124.token", FORMS["results_20130124.token"]())
    dataset = load(root)
    assert (dataset.name, dataset.split_rule) == ("flickr30k-hash", HASH_RULE)
    assert dataset.remarks == (
        "dataset_flickr30k.json is not there: the split is by a hash, of the images of results_20130124.token",
    )


def test_a_split_by_hash_of_karpathys_file_is_never_called_his(root):
    write(root, "dataset_flickr30k.json", karpathy())
    dataset = load(root, split="hash")
    assert (dataset.name, dataset.split_rule) == ("flickr30k-hash", HASH_RULE)
    assert dataset.caption_ids == ["0", "1", "2", "3", "4", "5"]


@pytest.mark.ci
def test_the_split_by_hash_is_about_as_large_as_it_says_and_moves_no_image(root):
    lines = [f"{number}.jpg#0\tx" for number in range(31_783)]
    write(root, "results_20130124.token", "\n".join(lines))
    whole = load(root, split="hash")
    sizes = np.bincount(whole.image_splits, minlength=4)
    np.testing.assert_allclose(sizes, [29_783, 1_000, 1_000, 0], atol=100)
    write(root, "results_20130124.token", "\n".join(lines[::-3]))
    fewer = load(root, split="hash")
    splits = dict(zip(whole.image_ids, whole.image_splits, strict=True))
    assert [splits[image] for image in fewer.image_ids] == fewer.image_splits.tolist()
    fractions = {"train": 29_783 / 31_783, "val": 1_000 / 31_783, "test": 1_000 / 31_783}
    np.testing.assert_array_equal(fewer.image_splits, split_by_hash(fewer.image_ids, fractions=fractions))


def test_karpathys_file_comes_before_the_others_and_the_original_before_tables(root):
    write(root, "captions.txt", "image,caption\n1.jpg,of the table\n")
    assert load(root).captions == ["of the table"]
    write(root, "annotations/results_20130124.token", "1.jpg#0\tof the original\n")
    assert load(root).captions == ["of the original"]
    write(root, "annotations/dataset_flickr30k.json", karpathy())
    assert load(root).split_rule == "Karpathy's split"


@pytest.mark.parametrize("restval", [True, False])
def test_restval_joins_train_where_there_is_any(root, restval):
    content = karpathy()
    content["images"][2]["split"] = "restval"
    write(root, "dataset_flickr30k.json", content)
    dataset = load(root, restval=restval)
    assert SPLITS[dataset.image_splits[2]] == ("train" if restval else "restval")
    assert dataset.split_rule == "Karpathy's split" + (", restval joined to train" if restval else "")


@pytest.mark.parametrize(
    "folder", ["flickr30k-images", "flickr30k_images/flickr30k_images", "flickr30k_images", "Images", "images", ""]
)
@pytest.mark.parametrize("there", [FILES, FILES[2:]])
def test_images_are_found_in_the_usual_folders_even_if_not_all_are_there(tmp_path, folder, there):
    write(tmp_path, "dataset_flickr30k.json", karpathy())
    for file in there:
        write(tmp_path, f"{folder}/{file}" if folder else file, b"not opened")
    dataset = load(tmp_path)
    assert dataset.image_files == [f"{folder}/{file}" if folder else file for file in FILES]
    assert len(dataset.missing_rows()) == len(FILES) - len(there)


def test_images_that_are_nowhere_are_missing_from_the_published_folder(tmp_path):
    write(tmp_path, "dataset_flickr30k.json", karpathy())
    dataset = load(tmp_path)
    assert dataset.image_files[0] == "flickr30k-images/1000092795.jpg"
    assert dataset.missing_rows().tolist() == [0, 1, 2]


@pytest.mark.parametrize("name", ["dataset_flickr30k.json", *FORMS])
def test_a_blank_caption_is_left_out_and_told(root, name):
    content = json.dumps(karpathy()) if name.endswith("json") else FORMS[name]()
    write(root, name, content.replace("Workers look down .", " "))
    dataset = load(root, split="hash")
    assert dataset.captions.count("Several men in hard hats are operating a giant pulley system .") == 1
    assert len(dataset.captions) == 5
    assert dataset.remarks == ("left out 1 empty caption, of 10002456",)


@pytest.mark.parametrize("name", ["dataset_flickr30k.json", *FORMS])
def test_a_file_that_leads_out_of_the_root_is_refused(root, name):
    content = json.dumps(karpathy()) if name.endswith("json") else FORMS[name]()
    write(root, name, content.replace("10002456.jpg", "../../10002456.jpg"))
    assert refusal(root, split="hash") == (
        f"data set 'flickr30k-hash': 1 image files are outside {root}: flickr30k-images/../../10002456.jpg; expected "
        f"paths relative to it, with forward slashes and without `..`."
    )


@pytest.mark.parametrize("name", ["dataset_flickr30k.json", *FORMS])
def test_two_files_with_one_id_are_refused(root, name):
    content = json.dumps(karpathy()) if name.endswith("json") else FORMS[name]()
    write(root, name, content.replace("10002456.jpg", "1000268201.png"))
    assert refusal(root, split="hash") == (
        "data set 'flickr30k-hash': 1 image ids are used by more than one image: 1000268201; every image needs its own "
        "id."
    )


@pytest.mark.parametrize("name", ["dataset_flickr30k.json", *FORMS])
def test_a_file_that_is_not_utf8_is_refused_with_the_byte(root, name):
    path = write(root, name, b"\xef\xbb\xbf1.jpg#0\tcaf\xe9\n")
    assert refusal(root) == f"{path} is not UTF-8 text: byte 14 is 0xe9; save it as UTF-8 (iconv -t utf-8)."


@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize("content", ["", " \n\n"])
def test_an_empty_file_is_refused(root, name, content):
    path = write(root, name, content)
    assert refusal(root) == f"{path} is empty; download it again."


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("1.jpg#0\ta dog\n1.jpg#1 a cat\n", ", line 2 has no tab; expected IMAGE.jpg#NUMBER, a tab and the caption."),
        (
            "1.jpg\ta dog\n",
            ", line 1 has no # in '1.jpg'; expected IMAGE.jpg#NUMBER, a tab and the caption.",
        ),
        ("image| comment\n", ", line 1 has no tab; expected IMAGE.jpg#NUMBER, a tab and the caption."),
        ("\n1.jpg#x\ta dog\n", ", line 2: the caption's number is 'x'; expected 0, 1 and so on."),
        ("1.jpg#\ta dog\n", ", line 1: the caption's number is ''; expected 0, 1 and so on."),
        ("1.jpg#-1\ta dog\n", ", line 1: the caption's number is '-1'; expected 0, 1 and so on."),
        ("1.jpg#1.0\ta dog\n", ", line 1: the caption's number is '1.0'; expected 0, 1 and so on."),
        ("1.jpg#\u0663\ta dog\n", ", line 1: the caption's number is '\u0663'; expected 0, 1 and so on."),
        (f"1.jpg#{'9' * 5000}\ta\n", f", line 1: the caption's number is '{'9' * 56}...; expected 0, 1 and so on."),
        ("#0\ta dog\n", ", line 1: the name of the image's file is empty."),
        (
            "1.jpg#0\ta dog\n2.jpg#0\tx\n1.jpg#00\ta cat\n",
            ", line 3: '1.jpg' has its caption 00 on line 1 already.",
        ),
    ],
)
def test_a_malformed_token_file_is_one_clear_line(root, content, message):
    path = write(root, "results_20130124.token", content)
    assert refusal(root) == f"{path}{message}"


COLUMNS = "expected one of image, image_name, filename and one of caption, comment, raw."


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("image_name| comment_number| comment\n", " has a header and no captions; download it again."),
        ("1.jpg| 0| a dog\n", f", line 1: found the columns '1.jpg', '0', 'a dog'; {COLUMNS}"),
        ("\nimage_name| text\n", f", line 2: found the columns 'image_name', 'text'; {COLUMNS}"),
        ("image| image_name| raw\n", f", line 1: found the columns 'image', 'image_name', 'raw'; {COLUMNS}"),
        (
            "image_name| comment_number| comment\n1.jpg| 0| a dog\n1.jpg\n",
            ", line 3 has 1 fields, expected 3 ('image_name', 'comment_number', 'comment'), separated by |.",
        ),
        (
            "image_name| comment_number| comment\n1.jpg| 0\n",
            ", line 2 has 2 fields, expected 3 ('image_name', 'comment_number', 'comment'), separated by |.",
        ),
        (
            "comment| image\na | dog| 1.jpg\n",
            ", line 2 has 3 fields, expected 2 ('comment', 'image'), separated by |.",
        ),
        (
            "image_name| comment_number| comment\n1.jpg| one| a dog\n",
            ", line 2: the caption's number is 'one'; expected 0, 1 and so on.",
        ),
        (
            "image_name| comment_number| comment\n1.jpg| 1.5| a dog\n",
            ", line 2: the caption's number is '1.5'; expected 0, 1 and so on.",
        ),
        (
            "image_name| comment_number| comment\n | 0| a dog\n",
            ", line 2: the name of the image's file is empty.",
        ),
        (
            "image_name| comment_number| comment\n1.jpg| 0| a dog\n1.jpg| 0| a cat\n",
            ", line 3: '1.jpg' has its caption 0 on line 2 already.",
        ),
    ],
)
def test_a_malformed_table_with_bars_is_one_clear_line(root, content, message):
    path = write(root, "results.csv", content)
    assert refusal(root) == f"{path}{message}"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("image,caption\n", " has a header and no captions; download it again."),
        ("1.jpg,a dog\n", f", line 1: found the columns '1.jpg', 'a dog'; {COLUMNS}"),
        ("image\tcaption\n1.jpg\ta dog\n", f", line 1: found the columns 'image\\tcaption'; {COLUMNS}"),
        (",,\n", f", line 1: found the columns ''; {COLUMNS}"),
        (
            'image,caption\n1.jpg,"a\ndog"\n2.jpg,a cat, a dog\n',
            ", line 4 has 3 fields, expected 2 ('image', 'caption'), separated by commas; put text with commas into "
            "double quotes.",
        ),
        (
            "image,caption\n1.jpg\n",
            ", line 2 has 1 fields, expected 2 ('image', 'caption'), separated by commas; put text with commas into "
            "double quotes.",
        ),
        (
            'image,caption\n1.jpg,a cat\n1.jpg,"a dog\n2.jpg,a cat\n',
            ": the row from line 3 on is not CSV: unexpected end of data; close every double quote, and double those "
            "within quoted text.",
        ),
        (
            'image,caption\n1.jpg,"a" dog\n',
            ": the row from line 2 on is not CSV: ',' expected after '\"'; close every double quote, and double those "
            "within quoted text.",
        ),
        (
            "image,comment_number,caption\n1.jpg,one,a dog\n",
            ", line 2: the caption's number is 'one'; expected 0, 1 and so on.",
        ),
        ("image,caption\n,a dog\n", ", line 2: the name of the image's file is empty."),
        (
            'image,comment_number,caption\n1.jpg,0,"a\ndog"\n1.jpg,0,a cat\n',
            ", line 4: '1.jpg' has its caption 0 on line 2 already.",
        ),
    ],
)
def test_a_malformed_table_with_commas_is_one_clear_line(root, content, message):
    path = write(root, "captions.txt", content)
    assert refusal(root) == f"{path}{message}"


def without(content, *names):
    for name in names[:-1]:
        content = content[name]
    del content[names[-1]]


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (
            lambda content: "",
            " is not JSON: expecting value, line 1, column 1 (byte 0); fix it, or download it again.",
        ),
        (
            lambda content: '{"images": [\n  {"split": }]}',
            " is not JSON: expecting value, line 2, column 13 (byte 25); fix it, or download it again.",
        ),
        (lambda content: [], " is not a split file of Karpathy's: expected an object with a list `images`."),
        (lambda content: {}, " is not a split file of Karpathy's: expected an object with a list `images`."),
        (
            lambda content: {"images": ["x"]},
            ": images[0] is not an object; expected filename, split and sentences.",
        ),
        (
            lambda content: content["images"][1].update(split="dev"),
            ": images[1] has split 'dev'; expected one of: train, val, test, restval.",
        ),
        (lambda content: without(content, "images", 0, "split"), ": images[0]: `split` is not there; expected text."),
        (
            lambda content: without(content, "images", 0, "filename"),
            ": images[0]: `filename` is not there; expected text.",
        ),
        (
            lambda content: content["images"][2].update(filename=""),
            ": images[2] has no file name; expected one as 1000092795.jpg.",
        ),
        (
            lambda content: without(content, "images", 0, "sentences"),
            ": images[0]: `sentences` is not there; expected a list.",
        ),
        (
            lambda content: without(content, "images", 0, "sentences", 1, "raw"),
            ": images[0], sentence 1: `raw` is not there; expected text.",
        ),
        (
            lambda content: without(content, "images", 0, "sentences", 1, "sentid"),
            ": images[0], a sentence: `sentid` is not there; expected a whole number.",
        ),
        (
            lambda content: content["images"][1]["sentences"][0].update(sentid=0),
            ": 1 sentence ids are repeated: 0.",
        ),
    ],
)
def test_a_malformed_split_file_is_one_clear_line(root, spoil, message):
    content = karpathy()
    changed = spoil(content)
    path = write(root, "dataset_flickr30k.json", content if changed is None else changed)
    assert refusal(root) == f"{path}{message}"


def test_a_split_file_without_images_is_refused(root):
    write(root, "dataset_flickr30k.json", {"images": []})
    assert refusal(root) == f"data set 'flickr30k' at {root} has no images; extraction needs at least one."


FETCH = "How to get it: clipret download flickr30k; or say where it is with --root (make: ROOT=)."


def test_without_any_file_what_was_looked_for_and_where_is_said(tmp_path):
    assert refusal(tmp_path) == (
        f"there are no captions of Flickr30k: looked for dataset_flickr30k.json in {tmp_path} and its annotations, "
        f"karpathy, caption_datasets, and for results_20130124.token, results.csv, captions.txt, captions.csv, "
        f"flickr30k_captions.csv in {tmp_path} and its flickr30k_images, annotations, flickr30k. {FETCH}"
    )


def test_karpathys_split_without_his_file_is_refused(root):
    write(root, "results_20130124.token", FORMS["results_20130124.token"]())
    assert refusal(root, split="karpathy") == (
        f"Karpathy's split needs dataset_flickr30k.json: not in {root} and its annotations, karpathy, "
        f"caption_datasets. {FETCH}"
    )


def test_a_root_that_the_system_will_not_look_at_is_one_clear_line(tmp_path):
    root = tmp_path / ("x" * 300)
    assert refusal(root) == f"--root {root} cannot be read: File name too long."


def test_a_root_that_is_a_file_is_one_clear_line(tmp_path):
    path = write(tmp_path, "flickr30k.zip", "x") / "in"
    assert refusal(path) == f"--root {path} cannot be read: Not a directory."


def test_a_file_name_that_the_system_will_not_look_at_is_an_image_that_is_missing(root):
    write(root, "results_20130124.token", f"{'x' * 300}.jpg#0\ta dog\n")
    assert load(root).missing_rows().tolist() == [0]
