"""Approximate indexes: their recall is measured, kept, and true."""

import json

import numpy as np
import pytest

from clipret import SearchConfig, search
from clipret.errors import ExportError, UsageError
from clipret.exports import INDEXES
from clipret.retrieval.nearest import nearest


@pytest.fixture(params=INDEXES)
def kind(request):
    pytest.importorskip(INDEXES[request.param].package)
    return request.param


def test_the_recall_is_that_of_the_captions_and_is_kept(searchable, tmp_path, kind, monkeypatch):
    config = SearchConfig(cache=searchable.cache, query="sun", embeddings=tmp_path, index=kind, k=5)
    result = search(config)
    assert result["index"]["kind"] == kind
    assert result["index"]["queries"] == len(np.load(next(tmp_path.glob("*.texts.npy"))))
    assert 0.9 <= result["index"]["recall@10"] <= 1
    exact = search(SearchConfig(cache=searchable.cache, query="sun", embeddings=tmp_path, k=1000))
    scores = {hit["row"]: hit["score"] for hit in exact["hits"]}
    assert all(hit["score"] == scores[hit["row"]] for hit in result["hits"])
    assert sum(hit["row"] in list(scores)[:5] for hit in result["hits"]) >= 4
    monkeypatch.setattr("clipret.service.approximate._measured", None)
    assert search(config)["index"] == result["index"]


def test_recall_counts_what_is_missed(searchable, tmp_path, monkeypatch):
    pytest.importorskip("usearch")
    from clipret.exports.indexes import usearch

    def poor(path):
        values = np.load(path.with_suffix(".npy"))

        def find(queries, k):
            best = nearest(queries, values, k=k)[1]
            best[:, k // 2 :] = -1
            return best

        return find

    monkeypatch.setattr(usearch, "open_index", poor)
    result = search(SearchConfig(cache=searchable.cache, query="sun", embeddings=tmp_path, index="usearch"))
    assert result["index"]["recall@10"] == 0.5
    assert len(result["hits"]) == 5


def test_captions_are_found_by_an_index_of_their_own(searchable, tmp_path, kind):
    config = {"cache": searchable.cache, "query": "sun", "embeddings": tmp_path, "find": "captions"}
    indexed, exact = search(SearchConfig(**config, index=kind)), search(SearchConfig(**config))
    assert len({hit["row"] for hit in indexed["hits"]} & {hit["row"] for hit in exact["hits"]}) >= 8


def test_a_damaged_index_is_named(searchable, tmp_path, kind):
    config = SearchConfig(cache=searchable.cache, query="sun", embeddings=tmp_path, index=kind)
    search(config)
    (path,) = tmp_path.glob(f"*.images.{kind}")
    path.write_bytes(b"\0" * path.stat().st_size)
    with pytest.raises(ExportError, match=r"the index .* cannot be read \(.*\); delete it and .*\.json"):
        search(config)


def test_the_record_still_says_what_embed_wrote(searchable, tmp_path, kind):
    search(SearchConfig(cache=searchable.cache, query="sun", embeddings=tmp_path, index=kind))
    (record,) = tmp_path.glob("*.npy.json")
    about = json.loads(record.read_text())
    assert set(about["recall"]) < set(about["indexes"])


def test_another_kind_is_refused_before_any_work(searchable, tmp_path):
    with pytest.raises(UsageError) as caught:
        search(SearchConfig(cache=searchable.cache, query="sun", embeddings=tmp_path, index="annoy"))
    assert str(caught.value) == "--index is 'annoy'; expected one of: usearch, faiss, faiss-hnsw."
    assert not list(tmp_path.iterdir())
