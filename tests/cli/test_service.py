"""clipret search and clipret serve on the command line."""

import json

import pytest


def test_search_prints_a_table_or_json(run, searchable, tmp_path):
    words = ["search", searchable.cache, "a red heart", "--head", searchable.run, "-k", 3]
    status, text, _ = run(*words, "--quiet")
    assert status == 0
    status, content, _ = run(*words, "--json")
    result = json.loads(content)
    assert [hit["rank"] for hit in result["hits"]] == [1, 2, 3]
    for hit in result["hits"]:
        assert hit["file"] in text
    (tmp_path / "q.txt").write_text("sun\n")
    assert run("search", searchable.cache, "--queries", "q.txt", "--out", "h.csv", "--quiet")[:2] == (0, "h.csv\n")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["search", "nowhere.h5", "x"], "there is no cache at nowhere.h5"),
        (["search", "c.h5"], "say what to look for"),
        (["search", "c.h5", "x", "-k", "0"], "--k is 0; expected 1 or more."),
        (["search", "c.h5", "x", "-k", "1001"], "--k is 1001; expected at most 1,000."),
        (["search", "c.h5", "x", "--find", "videos"], "--find is 'videos'; expected one of: images, captions."),
        (["serve", "nowhere.h5", "--port", "0"], "there is no cache at nowhere.h5"),
        (["serve", "c.h5", "--host", "0.0.0.0"], "--host 0.0.0.0 lets other machines in"),
    ],
)
def test_what_cannot_be_done_is_one_line(run, words, message):
    status, out, error = run(*words)
    assert status in (1, 2)
    assert out == ""
    assert message in error
    assert error.count("\n") == 1


def test_imported_features_cannot_be_searched_by_words(run, tmp_path):
    import numpy as np

    from clipret import write_cache

    values = np.random.default_rng(0).standard_normal((4, 8), dtype=np.float32)
    write_cache(
        tmp_path / "made.h5",
        images=values,
        texts=values,
        kind="final",
        captions=list("abcd"),
        caption_images=np.arange(4),
    )
    status, _, error = run("search", "made.h5", "x")
    assert status == 1
    assert "were imported, and nothing says how an encoder made them" in error
