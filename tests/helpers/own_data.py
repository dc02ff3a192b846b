"""Users' own data sets as files, and helpers that read them."""

import io
import json
import tarfile

import pyarrow
import pyarrow.parquet

from clipret.config import DatasetConfig
from clipret.datasets import load_dataset

# The metadata file of a folder, as JSON Lines and as CSV.
METADATA = [
    {"file_name": "a/x.png", "text": 'a "red" dog, running', "other": 1},
    {"file_name": "b.jpg", "text": "ein Hund 🐕", "other": 2},
    {"file_name": "a/x.png", "text": "two\nlines", "other": 3},
]
METADATA_CSV = 'file_name,text\na/x.png,"a ""red"" dog, running"\nb.jpg,ein Hund 🐕\na/x.png,"two\nlines"\n'


def write(path, content):
    """A file of text as it stands, of bytes, or a Parquet file of columns."""
    if isinstance(content, dict):
        pyarrow.parquet.write_table(pyarrow.table(content), path)
    elif isinstance(content, bytes):
        path.write_bytes(content)
    else:
        path.write_bytes(content.encode())
    return path


def load(path, **settings):
    return load_dataset(DatasetConfig(dataset=str(path), **settings))


def lines(*objects):
    return "".join(f"{json.dumps(entry)}\n" for entry in objects)


def columns(rows):
    return dict(zip(("image", "caption", "split", "id"), map(list, zip(*rows, strict=True)), strict=True))


def make(folder, files):
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        write(folder / name, content)
    return folder


def write_shard(path, members):
    """members: name -> bytes, text, or what becomes JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, content in members.items():
            if isinstance(content, str):
                content = content.encode()
            elif not isinstance(content, bytes):
                content = json.dumps(content).encode()
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path
