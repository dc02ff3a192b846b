"""Embeddings of a gallery are used again, or discarded, as they should be."""

import shutil

import numpy as np
import pytest

from clipret import EmbedConfig, ExtractConfig, SearchConfig, embed, extract, search
from clipret.errors import ExportError


@pytest.fixture
def run(searchable, tmp_path):
    return shutil.copytree(searchable.run, tmp_path / "run", ignore=shutil.ignore_patterns("embeddings-*"))


def files(folder):
    return {path.name: path.stat().st_mtime_ns for path in folder.glob("*embeddings-*")}


def test_they_are_kept_beside_the_run_by_split_and_type(searchable, run):
    search(SearchConfig(cache=searchable.cache, query="sun", head=run))
    search(SearchConfig(cache=searchable.cache, query="sun", head=run, split="test", dtype="float16"))
    assert {"embeddings-all.images.npy", "embeddings-test-float16.texts.npy"} <= set(files(run))
    half = np.load(run / "embeddings-test-float16.images.npy")
    assert half.dtype == np.float16


def test_those_of_zero_shot_are_beside_the_cache(searchable, tmp_path):
    cache = shutil.copy(searchable.cache, tmp_path / "mine.h5")
    search(SearchConfig(cache=cache, query="sun"))
    assert (tmp_path / "mine.zero-shot-embeddings-all.images.npy").exists()


def test_they_are_used_again_as_they_are(searchable, run):
    config = SearchConfig(cache=searchable.cache, query="sun", head=run)
    first, before = search(config), files(run)
    assert search(config)["hits"] == first["hits"]
    assert files(run) == before


def test_a_head_retrained_under_the_same_name_is_noticed(searchable, run):
    config = SearchConfig(cache=searchable.cache, query="sun", head=run)
    first = search(config)
    from clipret import TrainConfig, train

    again = train(TrainConfig(cache=searchable.cache, epochs=2, lr=1e-2, loss="infonce", runs_dir=run.parent / "runs"))
    for name in ("head.safetensors", "config.json", "history.csv", "result.json"):
        shutil.copy(f"{again['run']}/{name}", run / name)
    second = search(config)
    assert [hit["score"] for hit in second["hits"]] != [hit["score"] for hit in first["hits"]]
    fresh = search(SearchConfig(cache=searchable.cache, query="sun", head=again["run"]))
    assert second["hits"] == fresh["hits"]


def test_a_cache_extracted_anew_under_the_same_name_is_noticed(searchable, tmp_path):
    cache = shutil.copy(searchable.cache, tmp_path / "mine.h5")
    before = search(SearchConfig(cache=cache, query="sun"))["hits"]
    (tmp_path / "mine.h5").unlink()
    settings = {"model": "tiny-emoji", "workers": 0, "device": "cpu", "prompt": "a photo of {}", "dtype": "float32"}
    table = searchable.cache.with_suffix(".csv")
    extract(ExtractConfig(dataset=str(table), root=searchable.root, out=tmp_path / "mine.h5", **settings))
    after = search(SearchConfig(cache=cache, query="sun"))["hits"]
    assert [hit["score"] for hit in after] != [hit["score"] for hit in before]


def test_what_was_interrupted_is_gone_on_with_or_discarded(searchable, run, tmp_path, monkeypatch):
    config = SearchConfig(cache=searchable.cache, query="sun", head=run)
    whole = search(config)
    kept = {path.name: path.read_bytes() for path in run.glob("embeddings-*")}
    for name in kept:
        (run / name).unlink()

    def stop(progress):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        search(config, on_progress=stop)
    assert not (run / "embeddings-all.images.npy").exists()
    assert search(config)["hits"] == whole["hits"]
    assert (run / "embeddings-all.images.npy").read_bytes() == kept["embeddings-all.images.npy"]


def test_other_embeddings_of_embed_are_replaced_only_where_that_is_asked(searchable, run, tmp_path):
    config = {"cache": searchable.cache, "out": tmp_path / "emb.npy"}
    embed(EmbedConfig(**config))
    with pytest.raises(ExportError, match="has the embeddings of another head"):
        embed(EmbedConfig(**config, head=run))
    before = np.load(tmp_path / "emb.images.npy")
    assert embed(EmbedConfig(**config, head=run, replace=True))["written"]
    assert not np.array_equal(np.load(tmp_path / "emb.images.npy"), before)
    assert not embed(EmbedConfig(**config, head=run, replace=True))["written"]


def test_a_record_cannot_have_files_elsewhere_deleted(searchable, run, tmp_path):
    (tmp_path / "inner").mkdir()
    config = {"cache": searchable.cache, "out": tmp_path / "inner/emb.npy"}
    embed(EmbedConfig(**config))
    (tmp_path / "precious.npy").write_bytes(b"x")
    record = tmp_path / "inner/emb.npy.json"
    record.write_text(record.read_text().replace('"emb.images.npy"', '"../precious.npy"'))
    with pytest.raises(ExportError):
        embed(EmbedConfig(**config, head=run, replace=True))
    assert (tmp_path / "precious.npy").exists()
