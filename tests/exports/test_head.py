"""Heads by themselves: of a run's folder or a file, for features in memory, on disk, and as tensors."""

import json
import shutil

import numpy as np
import pytest
import torch

from clipret import FeatureCache, TrainConfig, load_head, train
from clipret.errors import HeadError, RunError, UsageError
from clipret.retrieval.gallery import embed
from tests.helpers import own


@pytest.fixture
def run_of(cache_path, tmp_path):
    def make(**settings):
        values = {"epochs": 1, "init": "random", "batch_size": 16, "runs_dir": tmp_path / "runs", "device": "cpu"}
        return train(TrainConfig(cache=cache_path, **(values | settings)))["run"]

    return make


def expected(head, side, features):
    """In numpy and float64, by what the head's file holds."""
    tensors = {name: tensor.double().numpy() for name, tensor in head.head.tensors.items()}

    def unit(rows):
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)

    z = unit(features.astype(np.float64) @ tensors[f"{side}_weight"] + tensors.get(f"{side}_bias", 0))
    if f"{side}_down" not in tensors:
        return z
    mixed = np.maximum(np.maximum(z @ tensors[f"{side}_down"], 0) @ tensors[f"{side}_up"], 0)
    return unit(head.head.ratio * mixed + (1 - head.head.ratio) * z)


@pytest.mark.parametrize("kind", ["linear", "adapter"])
def test_a_head_needs_neither_encoder_nor_cache(run_of, cache_path, kind):
    run, cache = run_of(head=kind), FeatureCache(cache_path)
    features = {"image": np.array(cache.image_features), "text": np.array(cache.text_features)}
    cache_path.unlink()
    head = load_head(run)
    assert head.kind == kind
    for side, values in features.items():
        function = head.embed_images if side == "image" else head.embed_texts
        embedded = function(values)
        assert (type(embedded), embedded.dtype) == (np.ndarray, np.float32)
        np.testing.assert_allclose(embedded, expected(head, side, values), atol=1e-6)
        as_tensor = function(torch.from_numpy(values))
        assert isinstance(as_tensor, torch.Tensor)
        np.testing.assert_array_equal(as_tensor.numpy(), embedded)
        np.testing.assert_array_equal(function(values.astype(np.float32)), embedded)


def test_a_row_has_the_same_bits_alone_in_a_map_and_as_eval_has_it(run_of, cache_path):
    head, features = load_head(str(run_of())), FeatureCache(cache_path).features("image")
    assert isinstance(features, np.memmap)
    together = head.embed_images(features)
    np.testing.assert_array_equal(
        np.concatenate([head.embed_images(features[[row]]) for row in range(20)]), together[:20]
    )
    np.testing.assert_array_equal(embed(head.head.embed_images, features, device="cpu").numpy(), together)
    # A last block of one row.
    np.testing.assert_array_equal(embed(head.head.embed_images, features, device="cpu", block=59).numpy(), together)


def test_a_file_without_a_run_is_a_head_too(run_of, tmp_path):
    alone = tmp_path / "elsewhere.safetensors"
    shutil.copy(f"{run_of()}/head.safetensors", alone)
    assert "elsewhere.safetensors: linear, image 24" in repr(load_head(alone))


def test_a_head_of_the_users_own_takes_its_cache(run_of, cache_path, tmp_path, monkeypatch):
    run = run_of(head=own.write(tmp_path)["head"], init="clip")
    features = FeatureCache(cache_path).features("text")
    ours = load_head(run).embed_texts(features)
    moved = tmp_path / "moved.h5"
    cache_path.rename(moved)
    np.testing.assert_array_equal(load_head(run, cache=moved).embed_texts(features), ours)
    own.forget(monkeypatch, tmp_path / "elsewhere")
    with pytest.raises(UsageError, match="clipret trust"):
        load_head(run, cache=moved)


@pytest.mark.parametrize(
    ("features", "message"),
    [
        (np.zeros((3, 5), np.float32), r"^image features are \(3, 5\) of float32; expected \(rows, 24\)"),
        (np.zeros(24, np.float32), r"^image features are \(24,\) of float32"),
        (np.zeros((3, 24), np.int64), r"^image features are \(3, 24\) of int64"),
        (torch.zeros(3, 24, dtype=torch.int32), r"^image features are \(3, 24\) of torch.int32"),
        (torch.zeros(0, 24), r"^image features are \(0, 24\)"),
        ([[1.0] * 24], "^image features are list"),
    ],
)
def test_features_of_another_shape_or_type_are_refused(run_of, features, message):
    with pytest.raises(UsageError, match=message):
        load_head(run_of()).embed_images(features)


@pytest.mark.parametrize("as_tensor", [False, True])
def test_features_without_finite_embeddings_are_refused_with_their_row(run_of, as_tensor):
    head, features = load_head(run_of()), np.ones((20_000, 24), np.float32)
    features[[17_000, 19_000], 5] = np.nan, np.inf
    given = torch.from_numpy(features) if as_tensor else features
    with pytest.raises(UsageError, match=r"^image features of row 17000 are not finite; expected features whose"):
        head.embed_images(given)
    features[17_000] = 3e38
    features[19_000] = 0
    with pytest.raises(UsageError, match=r"^image features of row 17000 are too large for this head \(up to 3e\+38\)"):
        head.embed_images(given)


def test_what_is_no_head_is_refused(run_of, tmp_path):
    with pytest.raises(RunError, match="there is no head"):
        load_head(tmp_path / "nowhere")
    (tmp_path / "head.safetensors").write_text(json.dumps({}))
    with pytest.raises(HeadError, match="not a readable safetensors file"):
        load_head(tmp_path)
    from clipret.machine.tensors import write_tensors

    write_tensors(tmp_path / "other.safetensors", {"weight": torch.zeros(2)}, metadata={"kind": "lora", "format": "1"})
    with pytest.raises(HeadError, match="expected kind linear or adapter"):
        load_head(tmp_path / "other.safetensors")
    write_tensors(
        tmp_path / "part.safetensors", {"image_weight": torch.zeros(2, 2)}, metadata={"kind": "linear", "format": "1"}
    )
    with pytest.raises(HeadError, match="incomplete: tensors text_weight are missing"):
        load_head(tmp_path / "part.safetensors")
