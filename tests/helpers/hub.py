"""Data sets as the Hugging Face hub has them: Parquet with the images inside, and Arrow as `datasets` saves it."""

import io
import json

import pyarrow
import pyarrow.parquet
from PIL import Image

# The type of the feature `Image`.
IMAGE = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])


def picture(colour="red"):
    """A PNG file's bytes."""
    file = io.BytesIO()
    Image.new("RGB", (8, 8), colour).save(file, "PNG")
    return file.getvalue()


def image(colour="red", path=None):
    """A cell of the feature `Image`."""
    return {"bytes": picture(colour), "path": path}


def images(cells):
    return pyarrow.array(cells, IMAGE)


def write_parquet(path, columns, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(pyarrow.table(columns), path, **options)
    return path


def write_arrow(path, columns, *, rows=1_000):
    """As `datasets` writes its files: a stream of record batches."""
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pyarrow.table(columns)
    with pyarrow.OSFile(str(path), "wb") as file, pyarrow.ipc.new_stream(file, table.schema) as writer:
        writer.write_table(table, max_chunksize=rows)
    return path


def save_to_disk(folder, columns, *, files=1, state=None):
    """As Dataset.save_to_disk of `datasets` 2.14 and later."""
    folder.mkdir(parents=True, exist_ok=True)
    table = pyarrow.table(columns)
    names = [f"data-{place:05d}-of-{files:05d}.arrow" for place in range(files)]
    size = -(-table.num_rows // files)
    for place, name in enumerate(names):
        part = table.slice(place * size, size)
        write_arrow(folder / name, {column: part.column(column) for column in part.column_names}, rows=2)
    about = {
        "_data_files": [{"filename": name} for name in names],
        "_fingerprint": "0f0f0f0f0f0f0f0f",
        "_format_columns": None,
        "_format_kwargs": {},
        "_format_type": None,
        "_output_all_columns": False,
        "_split": None,
    }
    (folder / "state.json").write_text(json.dumps(about | (state or {}), indent=2, sort_keys=True))
    info = {"citation": "", "description": "", "features": {}, "homepage": "", "license": ""}
    (folder / "dataset_info.json").write_text(json.dumps(info, indent=2))
    return folder


def save_splits(folder, splits):
    """As DatasetDict.save_to_disk: split -> columns."""
    for name, columns in splits.items():
        save_to_disk(folder / name, columns)
    (folder / "dataset_dict.json").write_text(json.dumps({"splits": list(splits)}))
    return folder
