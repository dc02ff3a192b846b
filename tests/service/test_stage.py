"""clipret.search: the order is that of eval, whatever is asked for."""

import csv
import json

import numpy as np
import pyarrow.parquet
import pytest
from PIL import Image

from clipret import EvalConfig, FeatureCache, SearchConfig, evaluate, open_run, search, zero_shot
from clipret.errors import DatasetError, ExportError, UsageError
from tests.helpers.searchable import HARMFUL


@pytest.fixture
def ask(searchable):
    def call(query=None, **settings):
        return search(SearchConfig(cache=searchable.cache, query=query, **settings))

    return call


def rows(result):
    return [hit["row"] for hit in result["hits"]]


@pytest.mark.parametrize("trained", [True, False])
def test_the_order_is_that_of_eval_per_query(searchable, ask, tmp_path, trained):
    evaluate(
        EvalConfig(
            cache=searchable.cache, head=searchable.run, out=tmp_path / "m.json", per_query=tmp_path / "q.parquet"
        )
    )
    table = pyarrow.parquet.read_table(tmp_path / "q.parquet").to_pylist()
    name = "trained" if trained else "zero-shot"
    queries = [row for row in table if row["direction"] == "t2i" and row["head"] == name]
    (tmp_path / "q.txt").write_text("".join(f'"{row["caption"]}"\n' for row in queries), encoding="utf-8")
    settings = {"head": searchable.run} if trained else {}
    ask(queries=tmp_path / "q.txt", out=tmp_path / "h.parquet", split="test", **settings)
    hits = pyarrow.parquet.read_table(tmp_path / "h.parquet").to_pylist()
    found = {number: [hit["id"] for hit in hits if hit["query"] == number] for number in range(1, len(queries) + 1)}
    assert [found[number] for number in found] == [row["top_ids"][:10] for row in queries]


def test_scores_are_cosines_of_the_models_embeddings(searchable, ask):
    result = ask("a red heart", head=searchable.run, k=200)
    model = open_run(searchable.run, cache=searchable.cache)
    files = [searchable.root / hit["file"] for hit in result["hits"]]
    cosines = model.embed_images(files) @ model.embed_texts(["a red heart"])[0]
    np.testing.assert_allclose([hit["score"] for hit in result["hits"]], cosines, atol=2e-6)
    assert sorted(-cosines) == pytest.approx(list(-cosines), abs=2e-6)
    assert result["gallery"] == len(result["hits"]) == len(FeatureCache(searchable.cache).image_ids)
    assert [hit["rank"] for hit in result["hits"]] == list(range(1, len(files) + 1))


def test_sums_are_sums_of_embeddings(searchable, ask):
    model = zero_shot(searchable.cache)
    words, picture = model.embed_texts(["sun", "face"]), model.embed_images([searchable.root / "2764.png"])[0]
    total = 2 * words[0] + picture - 0.5 * words[1]
    cache = FeatureCache(searchable.cache)
    gallery = model.embed_images([searchable.root / file for file in cache.image_files])
    expected = np.argsort(-(gallery @ (total / np.linalg.norm(total))), kind="stable")[:10]
    assert rows(ask(f"2:sun + {searchable.root / '2764.png'} - .5:face")) == expected.tolist()


def test_a_picture_of_the_cache_finds_itself_and_its_captions(searchable, ask):
    cache = FeatureCache(searchable.cache)
    for row in (3, 40):
        picture = searchable.root / cache.image_files[row]
        assert ask(image=picture)["hits"][0]["row"] == row
        captions = ask(image=picture, find="captions", k=1)["hits"]
        assert captions[0].keys() >= {"caption", "image", "image_id", "file"}


def test_a_split_is_searched_alone(searchable, ask):
    result = ask("face", split="val", k=1000)
    assert {hit["split"] for hit in result["hits"]} == {"val"}
    assert result["gallery"] == len(FeatureCache(searchable.cache).rows("image", split="val"))


def test_hits_below_a_score_are_left_out(ask):
    everything = ask("a red heart", k=50)["hits"]
    least = everything[4]["score"]
    assert len(ask("a red heart", k=50, min_score=repr(least))["hits"]) == 5
    assert ask("a red heart", min_score="1")["hits"] == []


def test_the_same_command_does_not_embed_again(searchable, ask, tmp_path):
    seen = []
    config = SearchConfig(cache=searchable.cache, query="x", embeddings=tmp_path)
    search(config, on_progress=lambda progress: seen.append(progress.phase))
    assert "embeddings" in seen
    seen.clear()
    search(config, on_progress=lambda progress: seen.append(progress.phase))
    assert seen == []


def test_hits_of_a_file_of_queries_are_those_of_each(searchable, ask, tmp_path):
    (tmp_path / "q.txt").write_text("\ufeffsun\n\n  moon  \n", encoding="utf-8")
    result = ask(queries=tmp_path / "q.txt", out=tmp_path / "h.csv", k=3)
    with (tmp_path / "h.csv").open(newline="", encoding="utf-8") as file:
        table = list(csv.DictReader(file))
    assert (result["queries"], result["hits"]) == (2, 6)
    assert [row["text"] for row in table] == ["sun"] * 3 + ["moon"] * 3
    assert [int(row["row"]) for row in table] == rows(ask("sun", k=3)) + rows(ask("moon", k=3))
    ask(queries=tmp_path / "q.txt", out=tmp_path / "h.parquet", find="captions", k=2)
    assert pyarrow.parquet.read_table(tmp_path / "h.parquet").column("image_id").to_pylist()


def test_harmful_captions_are_found_as_they_are(searchable, ask):
    hit = ask(f'"{HARMFUL}"'.replace('"quotes"', "quotes"), find="captions", k=1000)["hits"]
    assert HARMFUL in [caption["caption"] for caption in hit]


def test_broken_pictures_and_words_that_end_as_pictures_are_named(searchable, ask, tmp_path):
    (tmp_path / "broken.jpg").write_bytes(b"no picture")
    with pytest.raises(DatasetError) as caught:
        ask(image=tmp_path / "broken.jpg")
    assert str(caught.value) == f"image 0 ({tmp_path / 'broken.jpg'}) cannot be used: not an image that PIL knows."
    with pytest.raises(UsageError) as caught:
        ask("a dog + nowhere.jpg")
    assert str(caught.value) == (
        "'nowhere.jpg' in the query ends as a picture does, but No such file or directory; double quotes make it words."
    )
    Image.new("RGB", (9, 9), "red").save(tmp_path / "red.png")
    with pytest.raises(UsageError) as caught:
        ask(f"{tmp_path / 'red.png'} - {tmp_path / 'red.png'}")
    assert str(caught.value) == "the terms of the query cancel each other out; expected a sum that is not zero."


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, 'say what to look for: words, as in clipret search CACHE "two dogs", --image or --queries.'),
        ({"queries": "q.txt"}, "--queries and --out belong together: a file of queries, and one for their hits."),
        ({"query": "x", "min_score": "high"}, "--min-score is 'high'; expected a number from -1 to 1, or auto."),
        ({"query": "x", "min_score": "nan"}, "--min-score is 'nan'; expected a number from -1 to 1, or auto."),
        (
            {"query": "x", "head": "a", "zero_shot": True},
            "--zero-shot and --head contradict each other; give one of them.",
        ),
    ],
)
def test_settings_that_contradict_each_other_are_refused(settings, message):
    with pytest.raises(UsageError) as caught:
        SearchConfig(cache="c.h5", **settings)
    assert str(caught.value) == message


def test_damaged_embeddings_are_named_not_searched(searchable, tmp_path):
    config = SearchConfig(cache=searchable.cache, query="x", embeddings=tmp_path, k=1000)
    search(config)
    (path,) = tmp_path.glob("*.images.npy")
    content = bytearray(path.read_bytes())
    content[-2000:-1000] = b"\x7f" * 1000
    path.write_bytes(content)
    with pytest.raises(ExportError, match="is damaged: what it has of row"):
        search(config)
    path.write_bytes(b"x" * len(content))
    with pytest.raises(ExportError, match="is damaged; delete it and"):
        search(config)


def test_the_result_is_json(ask):
    json.dumps(ask("sun"), allow_nan=False)
