"""Every format, read back by its own library: the values, their order, the texts."""

import json
import sys
import zipfile
from types import ModuleType

import numpy as np
import pyarrow
import pyarrow.parquet as parquet
import pytest
from safetensors import safe_open

from clipret import EmbedConfig, FeatureCache, embed
from clipret.exports import EMBEDDING_FORMATS, FormatRow
from clipret.exports.embeddings import parquet as parquet_writer
from clipret.exports.embeddings.writing import Writer

FILES = {
    ".npy": ["emb.images.jsonl", "emb.images.npy", "emb.npy.json", "emb.texts.jsonl", "emb.texts.npy"],
    ".npz": ["emb.npz", "emb.npz.images.jsonl", "emb.npz.json", "emb.npz.texts.jsonl"],
    ".parquet": ["emb.parquet", "emb.parquet.json"],
    ".safetensors": [
        "emb.safetensors",
        "emb.safetensors.images.jsonl",
        "emb.safetensors.json",
        "emb.safetensors.texts.jsonl",
    ],
}


def read_back(out) -> dict[str, np.ndarray]:
    """images and texts, by the format's own library."""
    if out.suffix == ".npy":
        return {side: np.load(out.with_name(f"{out.stem}.{side}.npy"), mmap_mode="r") for side in ("images", "texts")}
    if out.suffix == ".npz":
        assert zipfile.ZipFile(out).testzip() is None
        return dict(np.load(out))
    if out.suffix == ".safetensors":
        with safe_open(out, "np") as file:
            return {side: file.get_tensor(side) for side in ("images", "texts")}
    table = parquet.read_table(out)
    parts = {}
    for side in ("image", "text"):
        column = table.filter(pyarrow.compute.equal(table["side"], side))["embedding"].combine_chunks()
        values = column.flatten().to_numpy(zero_copy_only=False)
        parts[f"{side}s"] = values.reshape(-1, column.type.list_size)
    return parts


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("ending", EMBEDDING_FORMATS)
def test_the_values_are_those_of_numpy_in_the_order_of_the_cache(tmp_path, cache_path, expected, ending, dtype):
    (tmp_path / "out").mkdir()
    out = tmp_path / "out" / f"emb{ending}"
    result = embed(EmbedConfig(cache=cache_path, out=out, dtype=dtype))
    stored = read_back(out)
    for side in ("image", "text"):
        values = stored[f"{side}s"]
        assert values.dtype == dtype
        np.testing.assert_allclose(values, expected[side], atol=2e-7 if dtype == "float32" else 5e-4, rtol=0)
    assert result["rows"] == {"images": 60, "texts": len(expected["text"])}
    assert sorted(path.name for path in out.parent.iterdir()) == FILES[ending]
    assert result["files"] == {name: (out.parent / name).stat().st_size for name in result["files"]}
    assert set(result["files"]) == set(FILES[ending]) - {f"{out.name}.json"}


def test_a_new_format_is_a_file_and_a_row(tmp_path, cache_path, monkeypatch):
    class RawWriter(Writer):
        """The values alone."""

    module = ModuleType("raw_format")
    module.WRITER = RawWriter
    monkeypatch.setitem(sys.modules, "raw_format", module)
    monkeypatch.setitem(EMBEDDING_FORMATS, ".raw", FormatRow("raw_format"))
    embed(EmbedConfig(cache=cache_path, out=tmp_path / "emb.raw"))
    embed(EmbedConfig(cache=cache_path, out=tmp_path / "emb.npy"))
    values = np.fromfile(tmp_path / "emb.raw", dtype=np.float32).reshape(-1, 12)
    assert (values[:60] == np.load(tmp_path / "emb.images.npy")).all()


def test_the_formats_are_the_tables():
    assert set(EMBEDDING_FORMATS) == set(FILES)


@pytest.mark.parametrize(("ending", "prefix"), [(".npy", "emb"), (".npz", "emb.npz")])
def test_a_line_of_json_belongs_to_every_embedding(tmp_path, cache_path, ending, prefix):
    embed(EmbedConfig(cache=cache_path, out=tmp_path / f"emb{ending}"))
    cache = FeatureCache(cache_path)
    lines = {
        side: [json.loads(line) for line in (tmp_path / f"{prefix}.{side}.jsonl").read_text("utf-8").splitlines()]
        for side in ("images", "texts")
    }
    names = ("train", "val", "test", "restval")
    splits = [names[code] for code in cache.image_splits]
    assert lines["images"] == [
        {"id": name, "file": file, "split": split}
        for name, file, split in zip(cache.image_ids, cache.image_files, splits, strict=True)
    ]
    assert lines["texts"] == [
        {
            "id": cache.caption_ids[row],
            "image": cache.image_ids[image],
            "file": cache.image_files[image],
            "caption": cache.captions[row],
            "split": splits[image],
        }
        for row, image in enumerate(cache.caption_images)
    ]


def test_parquet_has_the_columns_that_loaders_take(tmp_path, cache_path, monkeypatch):
    monkeypatch.setattr(parquet_writer, "ROWS_IN_GROUP", 20)
    embed(EmbedConfig(cache=cache_path, out=tmp_path / "emb.parquet", dtype="float16"))
    table = parquet.read_table(tmp_path / "emb.parquet")
    assert table.column_names == ["side", "id", "file", "caption", "image", "split", "embedding"]
    kind = table.schema.field("embedding").type
    assert pyarrow.types.is_fixed_size_list(kind)
    assert (kind.list_size, kind.value_type) == (12, pyarrow.float16())
    first, last = table.slice(0, 1).to_pylist()[0], table.slice(table.num_rows - 1).to_pylist()[0]
    assert (first["side"], first["id"], first["caption"], first["image"]) == ("image", "100", None, "100")
    cache = FeatureCache(cache_path)
    assert (last["side"], last["caption"], last["file"]) == ("text", cache.captions[-1], "59.jpg")
    assert table.schema.metadata[b"head_name"] == b"zero-shot"
    # So that loaders stream it.
    assert parquet.ParquetFile(tmp_path / "emb.parquet").metadata.row_group(0).num_rows == 21


def test_texts_of_every_kind_survive(tmp_path):
    from tests.conftest import contents, write_cache

    plain = contents(images=3)
    captions = ['"quoted"\\', "two\nlines\t", "日本語 ü", "\x9b31m"][: len(plain.captions)]
    captions += [f"more {row}" for row in range(len(plain.captions) - len(captions))]
    path = write_cache(tmp_path / "odd.h5", contents(images=3, captions=captions))
    for ending in (".npy", ".parquet"):
        embed(EmbedConfig(cache=path, out=tmp_path / f"emb{ending}"))
    lines = (tmp_path / "emb.texts.jsonl").read_bytes().split(b"\n")[:-1]
    assert [json.loads(line)["caption"] for line in lines] == captions
    table = parquet.read_table(tmp_path / "emb.parquet")
    assert [text for text in table["caption"].to_pylist() if text is not None] == captions
