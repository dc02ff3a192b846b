"""Indexes, read back by their own libraries, where these are installed."""

import importlib.util
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from clipret import EmbedConfig, embed
from clipret.errors import ExportError, UsageError
from clipret.exports import INDEXES, IndexRow
from clipret.exports.embeddings import stage


def nearest(kind: str, path, queries: np.ndarray) -> np.ndarray:
    """The row of an index that each query is closest to."""
    if kind.startswith("faiss"):
        faiss = pytest.importorskip("faiss")
        return faiss.read_index(str(path)).search(queries.astype(np.float32), 1)[1][:, 0]
    index = pytest.importorskip("usearch.index")
    return index.Index.restore(str(path)).search(queries, 1).keys[:, 0]


def test_another_name_is_refused(tmp_path, cache_path):
    with pytest.raises(UsageError) as caught:
        embed(EmbedConfig(cache=cache_path, out=tmp_path / "emb.npy", index="annoy"))
    assert str(caught.value) == "--index is 'annoy'; expected one of: usearch, faiss, faiss-hnsw."


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("kind", INDEXES)
def test_an_embedding_is_its_own_nearest(tmp_path, cache_path, kind, dtype):
    pytest.importorskip(INDEXES[kind].package)
    config = EmbedConfig(cache=cache_path, out=tmp_path / "emb.npy", index=kind, dtype=dtype)
    result = embed(config)
    assert set(result["indexes"]) == {f"emb.images.{kind}", f"emb.texts.{kind}"}
    for side in ("images", "texts"):
        values = np.load(tmp_path / f"emb.{side}.npy")
        found = nearest(kind, tmp_path / f"emb.{side}.{kind}", values)
        # Graphs miss some, and equal embeddings stand for each other.
        same = (values[found.astype(np.int64)] == values).all(axis=1)
        assert same.all() if kind == "faiss" else same.mean() >= 0.9
    assert not embed(config)["written"]
    assert not list(tmp_path.glob("*.part"))


@pytest.mark.parametrize("kind", INDEXES)
def test_an_index_is_added_to_embeddings_that_are_there(tmp_path, cache_path, kind):
    pytest.importorskip(INDEXES[kind].package)
    embed(EmbedConfig(cache=cache_path, out=tmp_path / "emb.parquet"))
    config = EmbedConfig(cache=cache_path, out=tmp_path / "emb.parquet", index=kind)
    assert embed(config)["written"]
    (tmp_path / f"emb.parquet.images.{kind}").write_bytes(b"mine")
    with pytest.raises(ExportError, match="is there, and not from clipret embed"):
        embed(config)


@pytest.mark.parametrize("kind", INDEXES)
def test_a_library_that_is_missing_is_named_before_any_work(tmp_path, cache_path, kind, monkeypatch):
    find = importlib.util.find_spec
    hidden = INDEXES[kind].package
    monkeypatch.setattr(stage.importlib.util, "find_spec", lambda name: None if name == hidden else find(name))
    with pytest.raises(UsageError) as caught:
        embed(EmbedConfig(cache=cache_path, out=tmp_path / "emb.npy", index=kind))
    extra = INDEXES[kind].extra
    assert str(caught.value) == f"--index {kind} needs the package {hidden}; run: pip install 'clipret[{extra}]'"
    assert not list(tmp_path.glob("emb*"))


def test_a_library_that_cannot_write_is_one_line_and_leaves_no_half_index(tmp_path, cache_path, monkeypatch):
    """As faiss and usearch say that the disk is full."""

    def write_index(path, blocks, **settings):
        path.write_bytes(b"half" * len(list(blocks)))
        raise RuntimeError("Error in write_index:\n  No space left on device")

    monkeypatch.setitem(sys.modules, "made_index", SimpleNamespace(write_index=write_index))
    monkeypatch.setitem(INDEXES, "made", IndexRow("made_index", package="json", extra="made"))
    config = EmbedConfig(cache=cache_path, out=tmp_path / "emb.npy", index="made")
    with pytest.raises(ExportError) as caught:
        embed(config)
    assert str(caught.value) == (
        f"cannot write {tmp_path}/emb.images.made: Error in write_index: No space left on device; the embeddings "
        f"themselves are complete. Once that is fixed, start the same command again."
    )
    assert not list(tmp_path.glob("*.part"))
    sys.modules["made_index"].write_index = lambda path, blocks, **settings: path.write_bytes(b"whole")
    assert set(embed(config)["indexes"]) == {"emb.images.made", "emb.texts.made"}
