"""Files of ready-made features: every form reads the same rows, and whatever is wrong is one line."""

import re
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet as parquet
import pytest
import torch
from safetensors.numpy import save_file
from safetensors.torch import save_file as save_torch

from clipret import FeatureCache, ImportConfig, cli
from clipret import import_features as run_import
from clipret.cache.importing import sources
from clipret.errors import DatasetError
from tests.helpers.ready_made import embeddings

ROWS = 50


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch):
    """Rows come seven at a time, so that pieces end within files, batches and images."""
    monkeypatch.setattr(sources, "_BYTES_AT_ONCE", 7 * 16 * 2)


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def save_npy(values):
    np.save("x.npy", values)
    return "x.npy"


def save_npy_big_endian(values):
    np.save("x.npy", values.astype(values.dtype.newbyteorder(">")))
    return "x.npy"


def save_npy_parts(values):
    for number, part in enumerate(np.array_split(values, 12)):
        np.save(f"x_{number}.npy", part)
    return "x_*.npy"


def save_safetensors(values):
    save_file({"other": np.zeros(3, np.float32), "x": values}, "x.safetensors")
    return "x.safetensors"


def save_two_tensors(values):
    save_file({"y": values[::-1].copy(), "x": values}, "x.safetensors")
    return "x.safetensors:x"


def save_parquet(values):
    kind = pyarrow.list_(pyarrow.from_numpy_dtype(values.dtype))
    table = pyarrow.table({"x": pyarrow.array(list(values), kind), "name": ["a"] * len(values)})
    parquet.write_table(table, "x.parquet", row_group_size=9)
    return "x.parquet"


def fixed_table(values):
    flat = pyarrow.array(values.reshape(-1))
    return pyarrow.table({"y": list(range(len(values))), "x": pyarrow.FixedSizeListArray.from_arrays(flat, 16)})


def save_arrow_file(values):
    with pyarrow.ipc.new_file("x.arrow", fixed_table(values).schema) as file:
        file.write_table(fixed_table(values), max_chunksize=11)
    return "x.arrow"


def save_arrow_stream(values):
    with pyarrow.ipc.new_stream("x.arrow", fixed_table(values).schema) as file:
        file.write_table(fixed_table(values), max_chunksize=11)
    return "x.arrow:x"


@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize(
    "save",
    [
        save_npy,
        save_npy_big_endian,
        save_npy_parts,
        save_safetensors,
        save_two_tensors,
        save_parquet,
        save_arrow_file,
        save_arrow_stream,
    ],
)
def test_every_form_gives_the_same_rows(here, save, dtype):
    values = embeddings(ROWS)[0].astype(dtype)
    assert run_import(ImportConfig(images=save(values), out="a.h5"))["dtype"] == dtype
    np.testing.assert_array_equal(FeatureCache("a.h5").image_features, values)


def test_bfloat16_and_float64_become_float32(here):
    values = torch.tensor(embeddings(ROWS)[0]).bfloat16()
    save_torch({"x": values}, "x.safetensors")
    np.save("y.npy", embeddings(ROWS)[1].astype(np.float64))
    run_import(ImportConfig(images="x.safetensors", texts="y.npy", out="a.h5"))
    cache = FeatureCache("a.h5")
    np.testing.assert_array_equal(cache.image_features, values.float().numpy())
    np.testing.assert_array_equal(cache.text_features, embeddings(ROWS)[1])


class Harmful:
    def __reduce__(self):
        return (print, ("this was run",))


def test_pickles_are_refused_and_not_run(here, capsys):
    np.save("x.npy", np.array([Harmful(), Harmful()], dtype=object))
    assert cli.main(["import", "--images", "x.npy", "--out", "a.h5"]) == 1
    shown = capsys.readouterr()
    assert shown.err == (
        "error: x.npy holds Python objects, which are not unpickled; save the features as one float array.\n"
    )
    assert "this was run" not in shown.out


def wrong(name):
    """Files that cannot be imported, with the settings that name them."""
    images, texts = embeddings(ROWS)
    np.save("i.npy", images), np.save("t.npy", texts)
    both = {"images": "i.npy", "texts": "t.npy"}
    spoiled = images.copy()
    match name:
        case "nan":
            spoiled[33, 3] = np.nan
        case "zeros":
            spoiled[12] = 0
        case "long":
            spoiled[21] *= 3
        case "huge":
            spoiled[5, 0] = 1e30
    np.save("s.npy", spoiled)
    np.save("narrow.npy", images[:, :8]), np.save("part_0.npy", images), np.save("part_1.npy", images[:, :9])
    np.save("flat.npy", images[0]), np.save("whole.npy", np.ones((3, 4), np.int64)), np.save("none.npy", images[:0])
    np.save("columns.npy", np.asfortranarray(images))
    Path("short.npy").write_bytes(Path("i.npy").read_bytes()[:-10])
    parquet.write_table(pyarrow.table({"caption": ["a"] * 49}), "m.parquet")
    parquet.write_table(pyarrow.table({"split": ["train"] * 49 + ["trial"]}), "s.parquet")
    lists = pyarrow.array([[1.0, 0.0], [1.0]], pyarrow.list_(pyarrow.float32()))
    parquet.write_table(pyarrow.table({"x": lists}), "lists.parquet")
    np.savez("p.npz", **{"image/weight": np.ones((9, 4), np.float32), "text/weight": np.ones((16, 4), np.float32)})
    fit = {f"{side}/weight": np.ones((16, 4), np.float32) for side in ("image", "text")}
    np.savez("fit.npz", **fit)
    parquet.write_table(pyarrow.table({"url": ["a.jpg"] * 50, "sku": list(range(50))}), "u.parquet")
    return both


SPOILED = {"images": "s.npy"}
MESSAGES = {
    "missing": ({"images": "gone.npy"}, "gone.npy cannot be read: No such file or directory."),
    "nan": (SPOILED, "s.npy, row 33 has values that are not finite; leave the row out, or make it again."),
    "zeros": (SPOILED, "s.npy, row 12 is all zeros, which no embedding is; leave the row out, or make it again."),
    "long": (
        SPOILED,
        "s.npy, row 21 has length 3, where normalised embeddings have 1; say --kind final for embeddings of any "
        "length, or --kind raw for features before the projections.",
    ),
    "huge": (
        SPOILED | {"kind": "final"},
        "s.npy, row 5 has values too large or too small to compute with in float32; scale the features.",
    ),
    "narrow type": (
        {"images": "s.npy", "kind": "final", "dtype": "float16"},
        "s.npy, row 5 has values beyond what float16 holds; say --dtype float32.",
    ),
    "raw": (
        {"images": "i.npy", "projections": "fit.npz"},
        "i.npy, row 0 and the next 2 rows have length 1, as normalised embeddings have, and there are projections; raw "
        "features come before these: leave --projections out, and say --kind normalised.",
    ),
    "rows": (
        {"images": "i.npy", "texts": "whole.npy"},
        "whole.npy holds int64; expected float16, float32 or float64.",
    ),
    "no rows": ({"images": "none.npy"}, "the image features have no rows; expected at least one."),
    "flat": ({"images": "flat.npy"}, "flat.npy has the shape (16,); expected an array (rows, width)."),
    "columns": ({"images": "columns.npy"}, "columns.npy is stored by columns; save numpy.ascontiguousarray of it."),
    "short": (
        {"images": "short.npy"},
        "short.npy has 3,318 bytes where its 50 rows need 3,328; copy it again.",
    ),
    "two widths": (
        {"images": "i.npy", "texts": "narrow.npy"},
        "the image features are 16 wide, the text features 8; final embeddings have one width. Say --kind raw for "
        "encoders that were never aligned, or give their projections.",
    ),
    "shards": (
        {"images": "part_*.npy"},
        "part_1.npy is 9 wide, part_0.npy 16; all files of a side have one width.",
    ),
    "table": (
        {"table": "m.parquet"},
        "the image features have 50 rows, and m.parquet has 49 rows; expected a row of features for every row, in the "
        "same order.",
    ),
    "split": (
        {"table": "s.parquet"},
        "s.parquet, row 49 has the split 'trial'; expected one of train, val, test, restval, or --split hash.",
    ),
    "no split": (
        {"split": "given"},
        "--split is 'given', and there is no column that says which split an image is in; name it with --columns "
        "split=NAME, or use --split hash, or one of train, val, test, restval for all images.",
    ),
    "column": (
        {"table": "m.parquet", "columns": "image=url"},
        "m.parquet has no column `url`; its columns are: caption.",
    ),
    "no column that is known": (
        {"table": "u.parquet"},
        "u.parquet has none of the columns `image_path`, `image`, `file_name`, `caption`, `text`, `split`; its columns "
        "are: url, sku. Say which they are with --columns image=NAME,caption=NAME",
    ),
    "lists": (
        {"images": "lists.parquet"},
        "lists.parquet, column x, row 1: the list has 1 numbers; expected 2 in every row.",
    ),
    "no tensors": ({"images": "lists.parquet:y"}, "lists.parquet has no column of lists of numbers y; it has x."),
    "projections": (
        {"projections": "p.npz"},
        "the image features are 16 wide, and image/weight of the projections takes 9; expected features that come "
        "before the projections.",
    ),
    "no folder": ({"folder": "gone"}, "there is no folder at gone; expected one that clip-retrieval wrote."),
    "another folder": (
        {"folder": "."},
        ". has no folder img_emb or text_emb, as clip-retrieval writes them; name the files with --images, --texts and "
        "--table.",
    ),
}


@pytest.mark.parametrize("name", MESSAGES)
def test_what_is_wrong_is_one_line_and_leaves_no_cache(here, name, capsys):
    settings, message = MESSAGES[name]
    both = wrong("huge" if name == "narrow type" else name)
    settings = settings if {"folder", "images"} & set(settings) else both | settings
    with pytest.raises(DatasetError, match=f"^{re.escape(message)}$"):
        run_import(ImportConfig(**settings, out="a.h5"))
    assert sorted(here.glob("a.h5*")) == []


def test_sides_of_different_lengths_need_a_table(here):
    images, texts = embeddings(5)
    np.save("i.npy", images[:3])
    np.save("t.npy", texts)
    with pytest.raises(DatasetError) as caught:
        run_import(ImportConfig(images="i.npy", texts="t.npy", out="a.h5"))
    assert str(caught.value) == (
        "the image features have 3 rows, the text features 5; expected as many, row by row the same, or a --table that "
        "says which image a caption is of."
    )
