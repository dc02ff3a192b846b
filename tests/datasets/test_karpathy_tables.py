import json
import zipfile
from types import SimpleNamespace

import numpy as np
import pyarrow
import pytest

from clipret.config import DatasetConfig
from clipret.datasets import load_dataset
from clipret.errors import DatasetError
from clipret.images import read_file
from clipret.protocols.protocol import make_protocol, protocol_digest
from tests.helpers.hub import image, images, picture, write_parquet
from tests.helpers.own_data import lines, load

SPLITS = ("train", "test", "val", "restval", "test", "train", "test", "val", "test", "test", "restval", "test")
TEXT_LISTS = pyarrow.list_(pyarrow.string())
SENTENCE = pyarrow.struct(
    [
        ("tokens", TEXT_LISTS),
        ("raw", pyarrow.string()),
        ("imgid", pyarrow.int32()),
        ("sentid", pyarrow.int32()),
    ]
)
PROTOCOLS = {
    "flickr30k": ("flickr30k-karpathy-1k",),
    "coco": ("coco-karpathy-5k", "coco-karpathy-5k-first5", "coco-karpathy-1k"),
}


def official(dataset):
    """The entries of Karpathy's file, in its order; sentence ids are not in the order of the images."""
    entries = []
    for row, split in enumerate(SPLITS):
        ids = [(7 * row + 3 * place) % 40 + 100 * row for place in range(6 if row == 4 else 5)]
        raws = [f'Sentence {place} of {row}, "quoted" and it\'s so.' for place in range(len(ids))]
        entry = {
            "sentids": ids,
            "imgid": row,
            "split": split if dataset == "coco" or split != "restval" else "train",
            "filename": f"{1000092795 - row}.jpg",
            "sentences": [
                {"tokens": raw.lower().split(), "raw": raw, "imgid": row, "sentid": number}
                for raw, number in zip(raws, ids, strict=True)
            ],
        }
        if dataset == "coco":
            number, part = 391895 - 11 * row, "val2014" if row % 2 else "train2014"
            entry |= {"cocoid": number, "filepath": part, "filename": f"COCO_{part}_{number:012d}.jpg"}
        entries.append(entry)
    return entries


def raws(entry):
    return [sentence["raw"] for sentence in entry["sentences"]]


def column(entries, name, kind=None):
    return pyarrow.array([entry[name] for entry in entries], kind)


def colour(row):
    return (20 * row, 9, 9)


def picture_of(entry):
    return image(colour(entry["imgid"]), entry["filename"])


def nlphuji_flickr30k(entries, folder):
    """nlphuji/flickr30k: everything in one split of the hub's, TEST, whatever the column says."""
    # The hub's order is not to matter.
    entries = entries[::-1]
    for place, part in enumerate((entries[:3], entries[3:])):
        columns = {
            "image": images([picture_of(entry) for entry in part]),
            "caption": pyarrow.array(map(raws, part), TEXT_LISTS),
            "sentids": pyarrow.array([list(map(str, entry["sentids"])) for entry in part], TEXT_LISTS),
            "split": column(part, "split"),
            "img_id": [str(entry["imgid"]) for entry in part],
            "filename": column(part, "filename"),
        }
        write_parquet(folder / f"TEST/test-{place:05d}-of-00002.parquet", columns, row_group_size=2)


def flickr_annotations(entries, folder):
    """flickr_annotations_30k.csv, as in the repository that nlphuji/flickr30k was made from."""
    rows = [
        [json.dumps(raws(entry)), str(entry["sentids"]), entry["split"], entry["filename"], str(entry["imgid"])]
        for entry in entries
    ]
    text = "".join(
        ",".join('"' + cell.replace('"', '""') + '"' for cell in row) + "\n"
        for row in [["raw", "sentids", "split", "filename", "img_id"], *rows]
    )
    folder.mkdir(parents=True)
    (folder / "flickr_annotations_30k.csv").write_text(text)


def yerevann_coco(entries, folder):
    """yerevann/coco-karpathy: no images, texts in a list, a file a split."""
    for split in ("train", "validation", "test", "restval"):
        own = {"validation": "val"}.get(split, split)
        part = [entry for entry in entries if entry["split"] == own]
        columns = {name: column(part, name) for name in ("filepath", "sentids", "filename", "imgid", "split")}
        columns |= {
            "sentences": pyarrow.array(map(raws, part), TEXT_LISTS),
            "cocoid": column(part, "cocoid"),
            "url": [f"http://images.cocodataset.org/{entry['filepath']}/{entry['filename']}" for entry in part],
        }
        write_parquet(folder / f"data/{split}-00000-of-00001.parquet", columns)


def m4_coco(entries, folder):
    """HuggingFaceM4/COCO: a row a sentence, a structure, and the image in every one."""
    for split, own in (("train", ("train", "restval")), ("validation", ("val",)), ("test", ("test",))):
        part = [(entry, sentence) for entry in entries if entry["split"] in own for sentence in entry["sentences"]]
        owners = [entry for entry, _ in part]
        columns = {
            "image": images([picture_of(entry) for entry in owners]),
            "filepath": column(owners, "filename"),
            "sentids": column(owners, "sentids", pyarrow.list_(pyarrow.int32())),
            "filename": column(owners, "filename"),
            "imgid": column(owners, "imgid", pyarrow.int32()),
            "split": column(owners, "split"),
            "sentences": pyarrow.array([sentence for _, sentence in part], SENTENCE),
            "cocoid": column(owners, "cocoid", pyarrow.int32()),
        }
        write_parquet(folder / f"{split}.parquet", columns, row_group_size=4)


def lists_of_sentences(entries, folder):
    """dataset_coco.json as pandas or `datasets` makes a table of it."""
    names = ("filepath", "sentids", "filename", "imgid", "split", "cocoid")
    columns = {name: column(entries, name) for name in names}
    columns["sentences"] = column(entries, "sentences", pyarrow.list_(SENTENCE))
    write_parquet(folder / "coco.parquet", columns)


def sentences_raw(entries, folder):
    """Multimodal-Fatima/COCO_captions: the parts of the sentences in columns of their own."""
    columns = {name: column(entries, name) for name in ("filepath", "sentids", "filename", "imgid", "split", "cocoid")}
    columns |= {
        "image": images(map(picture_of, entries)),
        "sentences_tokens": [[sentence["tokens"] for sentence in entry["sentences"]] for entry in entries],
        "sentences_raw": list(map(raws, entries)),
        "sentences_sentid": column(entries, "sentids"),
    }
    write_parquet(folder / "data/train-00000-of-00001.parquet", columns)


def json_lines(entries, folder):
    folder.mkdir(parents=True)
    (folder / "karpathy.jsonl").write_text(lines(*entries))


FORMS = {
    "nlphuji/flickr30k": ("flickr30k", nlphuji_flickr30k),
    "flickr_annotations_30k.csv": ("flickr30k", flickr_annotations),
    "yerevann/coco-karpathy": ("coco", yerevann_coco),
    "HuggingFaceM4/COCO": ("coco", m4_coco),
    "lists of sentences": ("coco", lists_of_sentences),
    "sentences_raw": ("coco", sentences_raw),
    "JSON Lines": ("coco", json_lines),
}


def digests(dataset, *, names):
    """Of the protocols on a cache of this data set, of which no feature is needed."""
    cache = SimpleNamespace(
        **dataset.columns,
        path="made.h5",
        usable=np.ones(len(dataset.image_ids), dtype=bool),
        text_states=np.ones(len(dataset.captions)),
        image_states=np.ones(len(dataset.image_ids)),
        inputs={"dataset": dataset.name, "prompt": "{}", "caption_clean": "none"},
    )
    return [protocol_digest(cache, make_protocol(cache, name)) for name in names]


def both(tmp_path, name, **settings):
    """The data set as the official file and as the Hub's table have it."""
    dataset, write = FORMS[name]
    (tmp_path / "official").mkdir()
    content = {"images": official(dataset), "dataset": dataset}
    (tmp_path / "official" / f"dataset_{dataset}.json").write_text(json.dumps(content))
    write(official(dataset), tmp_path / "hub")
    config = {"dataset": dataset, "split": "karpathy", **settings}
    return [load_dataset(DatasetConfig(**config, root=tmp_path / folder)) for folder in ("official", "hub")]


@pytest.mark.parametrize("name", FORMS)
def test_the_hubs_tables_give_the_protocol_digests_of_the_official_files(tmp_path, name):
    file, table = both(tmp_path, name)
    names = PROTOCOLS[FORMS[name][0]]
    assert digests(table, names=names) == digests(file, names=names)
    assert (table.name, table.split_rule) == (file.name, file.split_rule)
    assert table.image_ids == file.image_ids
    assert table.caption_ids == file.caption_ids
    assert table.captions == file.captions
    assert table.image_splits.tolist() == file.image_splits.tolist()
    assert table.caption_images.tolist() == file.caption_images.tolist()


@pytest.mark.parametrize("name", ["nlphuji/flickr30k", "HuggingFaceM4/COCO", "sentences_raw"])
def test_images_in_the_table_are_read_from_it(tmp_path, name):
    _, dataset = both(tmp_path, name)
    assert not len(dataset.missing_rows())
    read = [read_file(file, root=dataset.root) for file in dataset.image_files]
    assert read == [picture(colour(row)) for row in range(len(SPLITS))]


def test_a_repository_of_the_hub_is_read_as_it_is_cloned(tmp_path):
    flickr_annotations(official("flickr30k"), tmp_path / "hub")
    with zipfile.ZipFile(tmp_path / "hub/flickr30k-images.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for entry in official("flickr30k"):
            archive.writestr(f"flickr30k-images/{entry['filename']}", entry["filename"])
    dataset = load_dataset(DatasetConfig(dataset="flickr30k", root=tmp_path / "hub"))
    assert dataset.name == "flickr30k"
    assert dataset.image_files[0] == f"flickr30k-images.zip/flickr30k-images/{dataset.image_ids[0]}.jpg"
    assert read_file(dataset.image_files[0], root=dataset.root) == f"{dataset.image_ids[0]}.jpg".encode()
    assert not len(dataset.missing_rows())


def test_restval_can_stay_apart(tmp_path):
    file, table = both(tmp_path, "yerevann/coco-karpathy", restval=False)
    assert table.image_splits.tolist() == file.image_splits.tolist()
    assert set(table.image_splits.tolist()) == {0, 1, 2, 3}


@pytest.mark.parametrize("name", FORMS)
def test_the_same_tables_are_data_of_ones_own_without_columns(tmp_path, name):
    file, _ = both(tmp_path, name)
    folder = tmp_path / "hub"
    single = FORMS[name][1] in (flickr_annotations, json_lines)
    dataset = load(next(folder.iterdir()) if single else folder)
    assert dataset.split_rule == "given"
    assert dataset.image_ids == file.image_ids
    assert dataset.captions == file.captions
    assert dataset.caption_ids == file.caption_ids


def test_with_columns_a_table_of_karpathys_is_read_as_any_other(tmp_path):
    write_parquet(
        tmp_path / "made.parquet",
        {"filename": ["a.jpg"], "sentids": [[1, 2]], "raw": [["one", "two"]], "title": ["other"]},
    )
    dataset = load(tmp_path / "made.parquet", columns="image=filename,caption=title")
    assert (dataset.image_ids, dataset.captions) == (["a.jpg"], ["other"])


BROKEN = {
    "name": ({"filename": None}, "row 0: filename is None; expected the name of an image file."),
    "split": ({"split": "rest"}, "row 0: split is 'rest'; expected one of train, val, test, restval."),
    "no-split": (
        {"split": None},
        "row 0 has no split; expected a column `split` with one of train, val, test, restval.",
    ),
    "counts": ({"sentids": [1]}, "row 0: 2 texts in `raw`, and sentids is [1]; expected an id a text."),
    "ids": ({"sentids": ["1", "x"]}, "row 0: a sentence id is 'x'; expected a whole number."),
    "texts": ({"raw": "[1, 2]"}, "row 0: `raw` has 1; expected texts."),
    "one-text": ({"raw": "one"}, "row 0: a.jpg has 1 text, and sentids is [1, 2]; expected an id a text."),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_malformed_row_is_one_clear_line(tmp_path, name):
    change, message = BROKEN[name]
    row = {"filename": "a.jpg", "sentids": [1, 2], "raw": ["one", "two"], "split": "train"} | change
    path = write_parquet(tmp_path / "made.parquet", {column: [cell] for column, cell in row.items()})
    with pytest.raises(DatasetError) as caught:
        load_dataset(DatasetConfig(dataset="flickr30k", root=tmp_path))
    assert str(caught.value) == f"{path}, {message}"


def test_sentence_ids_that_are_there_twice_are_refused(tmp_path):
    columns = {"filename": ["a.jpg", "b.jpg"], "sentids": [[1], [1]], "raw": [["one"], ["two"]]}
    path = write_parquet(tmp_path / "made.parquet", columns)
    with pytest.raises(DatasetError) as caught:
        load(path)
    assert str(caught.value) == f"{path}: 1 sentence ids are repeated: 1."


def test_an_image_in_two_splits_is_refused(tmp_path):
    columns = {"filename": ["a.jpg", "a.jpg"], "sentids": [[1], [2]], "raw": [["x"], ["y"]], "split": ["train", "test"]}
    path = write_parquet(tmp_path / "made.parquet", columns)
    with pytest.raises(DatasetError) as caught:
        load(path)
    assert str(caught.value) == (
        f"{path}, row 1: a.jpg is in test here, and in train at {path}, row 0; expected one split an image."
    )
