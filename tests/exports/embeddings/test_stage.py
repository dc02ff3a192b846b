"""clipret.embed: which rows, through which head, and what is refused."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from clipret import EmbedConfig, EvalConfig, FeatureCache, TrainConfig, embed, evaluate, train, write_cache
from clipret.errors import ExportError, HeadError, UsageError
from clipret.evaluation.inputs import open_inputs
from clipret.exports.embeddings import rows
from clipret.protocols.protocol import split_protocol
from clipret.retrieval.baseline import baseline_projections
from clipret.retrieval.gallery import Gallery
from clipret.retrieval.gallery import embed as embed_gallery
from tests.conftest import contents
from tests.conftest import write_cache as write_made
from tests.helpers.pair_caches import write_pair_cache
from tests.helpers.ready_made import embeddings, recall_by_hand


def load(folder: Path, name: str = "emb") -> dict[str, np.ndarray]:
    return {side: np.load(folder / f"{name}.{side}.npy") for side in ("images", "texts")}


@pytest.fixture
def run_path(tmp_path, cache_path) -> Path:
    config = TrainConfig(cache=cache_path, epochs=2, lr=0.05, runs_dir=tmp_path / "runs")
    return Path(train(config)["run"])


def test_they_are_what_eval_computes_bit_for_bit(tmp_path, cache_path, run_path, monkeypatch):
    monkeypatch.setattr(
        rows.Selection,
        "spans",
        lambda selection: [rows.Span(side, 0, selection.rows[side]) for side in selection.sides],
    )
    embed(EmbedConfig(cache=cache_path, head=run_path, split="test", out=tmp_path / "emb.npy"))
    cache = FeatureCache(cache_path)
    head = open_inputs(EvalConfig(cache=cache_path, head=run_path)).heads["trained"]
    gallery = Gallery.read(cache, split_protocol(cache, split="test").folds[0])
    stored = load(tmp_path)
    for side, function in (("images", head.embed_images), ("texts", head.embed_texts)):
        features = torch.from_numpy(np.asarray(getattr(gallery, side), dtype=np.float32))
        assert (stored[side] == embed_gallery(function, features, device="cpu").numpy()).all()


def test_recall_of_the_embeddings_is_that_of_eval(tmp_path, cache_path, run_path):
    result = embed(EmbedConfig(cache=cache_path, head=run_path, split="test", out=tmp_path / "emb.npy"))
    assert result["head"] == {"name": "trained", "path": str(run_path / "head.safetensors")}
    results = evaluate(EvalConfig(cache=cache_path, head=run_path))["results"]["trained"]
    ids = [json.loads(line)["id"] for line in (tmp_path / "emb.images.jsonl").read_text().splitlines()]
    owners = [json.loads(line)["image"] for line in (tmp_path / "emb.texts.jsonl").read_text().splitlines()]
    recalls = recall_by_hand(**load(tmp_path), owners=np.array([ids.index(name) for name in owners]), k=1)
    assert recalls == pytest.approx((results["t2i"]["R@1"], results["i2t"]["R@1"]))


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_a_split_is_those_rows_in_the_same_order(tmp_path, cache_path, expected, split):
    embed(EmbedConfig(cache=cache_path, split=split, out=tmp_path / "emb.npy"))
    cache, stored = FeatureCache(cache_path), load(tmp_path)
    selected = cache.image_splits == ("train", "val", "test").index(split)
    np.testing.assert_allclose(stored["images"], expected["image"][selected], atol=2e-7, rtol=0)
    np.testing.assert_allclose(stored["texts"], expected["text"][selected[cache.caption_images]], atol=2e-7, rtol=0)


def test_a_split_without_rows_is_refused(tmp_path, cache_path):
    with pytest.raises(UsageError) as caught:
        embed(EmbedConfig(cache=cache_path, split="restval", out=tmp_path / "emb.npy"))
    assert str(caught.value) == f"{cache_path} has no images or captions of split restval; give another --split."
    assert not list(tmp_path.glob("emb*"))


def test_images_without_a_feature_and_their_captions_are_left_out(tmp_path):
    from clipret.cache import open_writer
    from tests.helpers.caches import COUNTS, MADE, PROBLEMS, fill

    path = tmp_path / "some.h5"
    with open_writer(path, MADE) as writer:
        fill(writer)
    result = embed(EmbedConfig(cache=path, out=tmp_path / "emb.npy"))
    cache, stored = FeatureCache(path), load(tmp_path)
    unusable = np.flatnonzero(~cache.usable)
    lost = int(np.isin(cache.caption_images, unusable).sum())
    assert set(PROBLEMS) <= set(unusable.tolist())
    assert result["left_out"] == {"images": len(unusable), "texts": lost}
    assert len(stored["images"]) == COUNTS["image"] - len(unusable)
    assert len(stored["texts"]) == COUNTS["text"] - lost


def test_a_cache_that_was_never_aligned_goes_through_its_closed_form_head(tmp_path):
    path = write_pair_cache(tmp_path / "pair.h5")
    result = embed(EmbedConfig(cache=path, out=tmp_path / "emb.npy"))
    assert result["head"] == {"name": "closed-form", "path": None}
    cache = FeatureCache(path)
    projections = baseline_projections(cache)
    values = np.asarray(cache.image_features, np.float64) @ projections["image/weight"] + projections["image/bias"]
    values /= np.linalg.norm(values, axis=1, keepdims=True)
    np.testing.assert_allclose(load(tmp_path)["images"], values, atol=1e-6, rtol=0)


@pytest.mark.parametrize("side", ["images", "texts"])
@pytest.mark.parametrize("ending", [".npy", ".npz", ".parquet", ".safetensors"])
def test_a_cache_of_one_side_gives_that_side(tmp_path, side, ending):
    values, _ = embeddings(20)
    write_cache(tmp_path / "one.h5", **{side: values})
    result = embed(EmbedConfig(cache=tmp_path / "one.h5", out=tmp_path / f"emb{ending}"))
    assert result["rows"] == {side: 20}
    if ending == ".npy":
        assert {path.name for path in tmp_path.glob("emb*")} == {f"emb.{side}.jsonl", f"emb.{side}.npy", "emb.npy.json"}
        np.testing.assert_allclose(np.load(tmp_path / f"emb.{side}.npy"), values, atol=1e-3)
        first = json.loads((tmp_path / f"emb.{side}.jsonl").read_text().splitlines()[0])
        assert first["id"] == "0"


def test_captions_alone_have_no_split(tmp_path):
    write_cache(tmp_path / "one.h5", texts=embeddings(20)[0])
    with pytest.raises(UsageError) as caught:
        embed(EmbedConfig(cache=tmp_path / "one.h5", split="test", out=tmp_path / "emb.npy"))
    assert str(caught.value) == (
        f"--split is 'test', but {tmp_path / 'one.h5'} has no images, and a caption's split is that of its image; "
        f"leave --split out to embed all captions."
    )


@pytest.mark.parametrize("images", [1, 7, 8, 14])
def test_odd_sizes(tmp_path, images):
    path = write_made(tmp_path / "odd.h5", contents(images=images))
    for ending in (".npy", ".npz", ".parquet", ".safetensors"):
        embed(EmbedConfig(cache=path, out=tmp_path / f"emb{ending}"))
    stored = load(tmp_path)
    assert len(stored["images"]) == images
    assert (np.load(tmp_path / "emb.npz")["texts"] == stored["texts"]).all()


def test_biases_are_added(tmp_path):
    from tests.helpers.embedded import embedded_by_hand

    path = write_made(tmp_path / "bias.h5", contents(bias=True))
    embed(EmbedConfig(cache=path, out=tmp_path / "emb.npy"))
    stored = load(tmp_path)
    for side in ("image", "text"):
        np.testing.assert_allclose(stored[f"{side}s"], embedded_by_hand(FeatureCache(path), side), atol=3e-7, rtol=0)


def test_what_is_there_already_is_left_as_it_is(tmp_path, cache_path):
    config = EmbedConfig(cache=cache_path, out=tmp_path / "emb.npy")
    assert embed(config)["written"]
    before = (tmp_path / "emb.images.npy").stat().st_mtime_ns
    again = embed(config)
    assert not again["written"]
    assert (tmp_path / "emb.images.npy").stat().st_mtime_ns == before


@pytest.mark.parametrize("ending", [".npy", ".parquet"])
def test_the_embeddings_of_another_head_are_not_written_over(tmp_path, cache_path, run_path, ending):
    out = tmp_path / f"emb{ending}"
    embed(EmbedConfig(cache=cache_path, out=out))
    with pytest.raises(ExportError) as caught:
        embed(EmbedConfig(cache=cache_path, head=run_path, out=out))
    assert str(caught.value) == (
        f"{out} has the embeddings of another head (by the zero-shot head); write elsewhere, or delete "
        f"{out}.json and the files that it lists."
    )
    with pytest.raises(ExportError, match="another --split and --dtype"):
        embed(EmbedConfig(cache=cache_path, split="test", dtype="float16", out=out))


def test_a_file_of_somebody_else_is_not_written_over(tmp_path, cache_path):
    (tmp_path / "emb.npz").write_bytes(b"mine")
    with pytest.raises(ExportError) as caught:
        embed(EmbedConfig(cache=cache_path, out=tmp_path / "emb.npz"))
    path = tmp_path / "emb.npz"
    assert str(caught.value) == f"{path} is there, and not from clipret embed; delete it, or write elsewhere."
    assert path.read_bytes() == b"mine"


def test_files_that_were_cut_since_are_named(tmp_path, cache_path):
    config = EmbedConfig(cache=cache_path, out=tmp_path / "emb.npz")
    embed(config)
    (tmp_path / "emb.npz").write_bytes(b"short")
    with pytest.raises(ExportError) as caught:
        embed(config)
    assert str(caught.value) == (
        f"{tmp_path / 'emb.npz.json'} says that the embeddings are complete, but its files are not there, or of "
        f"another size; delete it and the files that it lists, and start the same command again."
    )


def test_a_record_that_is_none_is_named(tmp_path, cache_path):
    (tmp_path / "emb.npz.json").write_text("[]")
    with pytest.raises(ExportError, match=r"emb\.npz\.json is not a record of embeddings \(.*\); delete it, or write"):
        embed(EmbedConfig(cache=cache_path, out=tmp_path / "emb.npz"))


def test_a_head_of_other_features_is_refused(tmp_path, cache_path, run_path):
    other = write_made(tmp_path / "other.h5", contents(dims=(20, 16, 12)))
    with pytest.raises(HeadError):
        embed(EmbedConfig(cache=other, head=run_path, out=tmp_path / "emb.npy"))
    assert not list(tmp_path.glob("emb*"))


@pytest.mark.parametrize(
    ("out", "message"),
    [
        ("emb.csv", "--out is '{}'; expected a file that ends with .npy or .npz or .parquet or .safetensors."),
        ("no/emb.npy", "--out is '{}', but there is no folder {}; make it first."),
    ],
)
def test_a_place_that_cannot_be_is_refused(tmp_path, cache_path, out, message):
    path = tmp_path / out
    with pytest.raises(UsageError) as caught:
        embed(EmbedConfig(cache=cache_path, out=path))
    assert str(caught.value) == message.format(path, path.parent)


def test_a_format_whose_package_is_missing_says_how_to_install_it(tmp_path, cache_path, monkeypatch):
    from clipret.exports.embeddings import stage

    monkeypatch.setattr(stage.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UsageError) as caught:
        embed(EmbedConfig(cache=cache_path, out=tmp_path / "emb.parquet"))
    out = tmp_path / "emb.parquet"
    assert str(caught.value) == f"--out {out} needs the package pyarrow; run: pip install 'clipret[parquet]'"


def test_head_and_zero_shot_contradict_each_other(tmp_path):
    with pytest.raises(UsageError, match="--zero-shot and --head contradict each other; give one of them"):
        EmbedConfig(cache="c.h5", out="emb.npy", head="runs/1", zero_shot=True)


def test_progress_counts_rows(tmp_path, cache_path):
    reports = []
    embed(EmbedConfig(cache=cache_path, out=tmp_path / "emb.npy"), on_progress=reports.append)
    assert [report.done for report in reports][:2] == [7, 14]
    assert reports[-1].done == reports[-1].total == 60 + len(FeatureCache(cache_path).captions)
