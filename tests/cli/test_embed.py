"""clipret embed on the command line."""

import json

import numpy as np
import pytest

from tests.conftest import write_cache


@pytest.fixture
def cache(tmp_path):
    return write_cache(tmp_path / "made.h5")


def test_it_says_what_it_wrote(run, cache):
    status, out, err = run("embed", cache, "--out", "emb.npy")
    assert status == 0, err
    lines = out.splitlines()
    assert lines[0].startswith("60 images and 155 captions, 12 values of float32 each, by the zero-shot head, in ")
    files = ["emb.images.npy", "emb.texts.npy", "emb.images.jsonl", "emb.texts.jsonl"]
    assert lines[1:] == [*(f"  {name}" for name in files), "  emb.npy.json  (what they are)"]
    assert np.load("emb.images.npy").shape == (60, 12)
    assert "embeddings 215/215" in err


def test_again_it_writes_nothing_and_says_so(run, cache):
    run("embed", cache, "--out", "emb.npz")
    status, out, _ = run("embed", cache, "--out", "emb.npz")
    assert status == 0
    line = (
        "emb.npz has these embeddings already: 60 images and 155 captions, by the zero-shot head. Nothing was written."
    )
    assert out.splitlines()[0] == line


def test_json_is_the_result_and_nothing_else(run, cache, tmp_path):
    status, out, err = run("embed", cache, "--out", "emb.parquet", "--dtype", "float16", "--json")
    assert (status, err) == (0, "")
    result = json.loads(out)
    assert (result["dtype"], result["head"]["name"], result["out"]) == ("float16", "zero-shot", "emb.parquet")


def test_an_interruption_names_the_command_that_goes_on(run, cache, monkeypatch):
    from clipret.exports.embeddings import stage

    def interrupted(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(stage, "_append", interrupted)
    status, _, err = run("embed", cache, "--out", "emb.npy", "--split", "test")
    assert status == 130
    assert f"error: interrupted; go on with: clipret embed {cache} --out emb.npy --split test" in err


def test_errors_are_one_line(run, cache):
    status, _, err = run("embed", cache, "--out", "emb.txt")
    expected = "error: --out is 'emb.txt'; expected a file that ends with .npy or .npz or .parquet or .safetensors.\n"
    assert (status, err) == (2, expected)
    status, _, err = run("embed", "nowhere.h5", "--out", "emb.npy")
    assert status == 1
    assert err.count("\n") == 1
    status, _, err = run("embed", cache, "--out", "emb.npy", "--split", "dev")
    assert status == 2
    assert "--split is 'dev'; expected one of: all, train, val, test, restval." in err
