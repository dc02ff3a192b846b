"""clipret.write_cache: arrays, memory maps and blocks; killed at any moment and gone on with."""

import numpy as np
import pytest

from clipret import (
    EvalConfig,
    FeatureCache,
    MergeConfig,
    TrainConfig,
    VerifyConfig,
    evaluate,
    merge,
    train,
    verify,
    write_cache,
)
from clipret.cache.importing import sources, spools
from clipret.errors import CacheMismatchError, ClipretError, DatasetError, UsageError
from tests.helpers.caches import Disk, Killed, arrays
from tests.helpers.ready_made import IMAGES, OWNERS, TEXTS, blocks, embeddings, made


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch):
    monkeypatch.setattr(sources, "_BYTES_AT_ONCE", 7 * 16 * 4)
    monkeypatch.setattr(spools, "_ROWS_AT_ONCE", 9)


def in_blocks():
    arguments = made()
    return arguments | {
        "images": blocks(arguments["images"], 11),
        "texts": blocks(arguments["texts"], 13),
        "captions": iter(arguments["captions"]),
    }


def test_arrays_maps_and_blocks_make_the_same_cache(tmp_path):
    arguments = made()
    write_cache(tmp_path / "arrays.h5", **arguments, dataset="x")
    write_cache(tmp_path / "blocks.h5", **in_blocks(), dataset="x")
    mapped = {}
    for name in ("images", "texts"):
        np.save(tmp_path / f"{name}.npy", arguments[name])
        mapped[name] = np.load(tmp_path / f"{name}.npy", mmap_mode="r")
    write_cache(tmp_path / "maps.h5", **arguments | mapped, dataset="x")
    first = arrays(tmp_path / "arrays.h5")
    assert arrays(tmp_path / "blocks.h5") == arrays(tmp_path / "maps.h5") == first
    cache = FeatureCache(tmp_path / "blocks.h5")
    np.testing.assert_array_equal(cache.image_features, arguments["images"])
    np.testing.assert_array_equal(cache.text_features, arguments["texts"])
    assert list(cache.captions) == arguments["captions"]
    assert cache.captions[-1] == arguments["captions"][-1]
    assert cache.captions[3:5] == arguments["captions"][3:5]
    assert cache.caption_images.tolist() == OWNERS.tolist()
    assert cache.image_splits.tolist() == [0, 1, 2, 2] * 10
    assert cache.fingerprint == FeatureCache(tmp_path / "arrays.h5").fingerprint


def test_the_fingerprint_is_of_every_row(tmp_path):
    arguments = made()
    first = write_cache(tmp_path / "a.h5", **arguments, dataset="x")["fingerprint"]
    arguments["texts"][68] = arguments["texts"][2]
    assert write_cache(tmp_path / "b.h5", **arguments, dataset="x")["fingerprint"] != first


@pytest.mark.ci
@pytest.mark.parametrize("torn", [False, True])
def test_killed_at_any_step_it_opens_and_goes_on_to_the_same_bytes(tmp_path, monkeypatch, torn):
    path, whole = tmp_path / "a.h5", tmp_path / "whole.h5"
    with monkeypatch.context() as patch:
        disk = Disk(patch)
        write_cache(whole, **in_blocks(), dataset="x")
        steps = disk.steps
    expected = arrays(whole)
    assert steps > 20
    for stop_at in range(steps):
        path.unlink(missing_ok=True)
        with monkeypatch.context() as patch:
            Disk(patch, stop_at=stop_at, torn=torn)
            with pytest.raises(Killed):
                write_cache(path, **in_blocks(), dataset="x")
        if path.exists():
            cache = FeatureCache(path, allow_incomplete=True)
            # What is called done is there.
            for side in ("image", "text"):
                states = cache.image_states if side == "image" else cache.text_states
                cache.read(side, np.flatnonzero(states == 1))
        write_cache(path, **in_blocks(), dataset="x")
        assert arrays(path) == expected


def test_other_rows_on_going_on_are_named(tmp_path):
    write_cache(tmp_path / "a.h5", **made())
    changed = made()
    changed["texts"][33] = changed["texts"][32]
    with pytest.raises(
        CacheMismatchError, match=r"text row 33 was written with other values than texts, row 33 has now"
    ):
        write_cache(tmp_path / "a.h5", **changed)
    with pytest.raises(CacheMismatchError, match="columns_sha256"):
        write_cache(tmp_path / "a.h5", **made(captions=["other"] * TEXTS))


def test_projections_make_the_features_raw(tmp_path):
    generator = np.random.default_rng(0)
    weights = {f"{side}/weight": generator.standard_normal((16, 5)).astype(np.float32) for side in ("image", "text")}
    path = tmp_path / "a.h5"
    scaled = made()
    scaled |= {name: 3 * scaled[name] for name in ("images", "texts")}
    result = write_cache(path, **scaled, projections=weights)
    cache = FeatureCache(path)
    assert result["features"] == "features before the encoder's projections"
    assert cache.aligned
    np.testing.assert_array_equal(cache.projections["text/weight"], weights["text/weight"])


def test_raw_features_without_projections_are_a_pair_that_was_never_aligned(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    features = made()
    features |= {"images": 3 * features["images"], "texts": features["texts"][:, :9]}
    # As sentence encoders give them.
    features["texts"] /= np.linalg.norm(features["texts"], axis=1, keepdims=True)
    result = write_cache("a.h5", **features, kind="raw")
    cache = FeatureCache("a.h5")
    assert not cache.aligned
    assert result["widths"] == {"image": 16, "text": 9}
    assert list(cache.projections) == ["logit_scale"]
    run = train(TrainConfig(cache="a.h5", epochs=1))["run"]
    assert set(evaluate(EvalConfig(head=run))["results"]) == {"closed-form", "trained"}


def test_without_captions_no_two_are_the_same_text(tmp_path):
    write_cache(tmp_path / "a.h5", **made(captions=None))
    cache = FeatureCache(tmp_path / "a.h5")
    assert cache.captions[5] == ""
    assert cache.text_digests(np.array([3, 9])).tolist() == [3, 9]
    assert verify(VerifyConfig(tmp_path / "a.h5"))["sound"]


def test_equal_captions_have_equal_digests(tmp_path):
    captions = [f"caption {row // 2}" for row in range(TEXTS)]
    captions[1] = "Caption  0"
    write_cache(tmp_path / "a.h5", **made(captions=captions))
    digests = FeatureCache(tmp_path / "a.h5").text_digests(np.arange(4))
    assert digests[0] == digests[1] != digests[2] == digests[3]


def test_imports_with_ids_of_their_own_are_merged(tmp_path):
    paths = [tmp_path / name for name in ("a.h5", "b.h5")]
    for path in paths:
        counts = {"image_ids": IMAGES, "caption_ids": TEXTS}
        names = {name: [f"{path.stem}{row}" for row in range(count)] for name, count in counts.items()}
        write_cache(path, **made(), **names, dataset="x")
    merge(MergeConfig(paths, out=tmp_path / "both.h5"))
    cache = FeatureCache(tmp_path / "both.h5")
    assert (len(cache.image_ids), cache.image_ids[IMAGES], cache.caption_ids[TEXTS + 3]) == (2 * IMAGES, "b0", "b3")
    assert cache.captions[TEXTS + 3] == "caption ü3"
    assert cache.caption_images[TEXTS] == IMAGES
    assert verify(VerifyConfig(tmp_path / "both.h5"))["sound"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"images": None, "texts": None}, "write_cache needs images, texts or both."),
        ({"images": [1, 2]}, "images is a list; expected an array, or an iterator of arrays."),
        ({"images": np.ones(3)}, "images has the shape (3,); expected an array (rows, width)."),
        ({"images": np.ones((3, 2), object)}, "images holds object; expected float16, float32 or float64."),
        ({"captions": ["a"]}, "captions has 1 entries, the text features 70 rows; expected as many."),
        ({"caption_images": [0] * 69 + [40]}, "caption_images has 40 in row 69; expected rows of images, 0 to 39."),
        ({"caption_images": [0.5] * 70}, "caption_images is float64 of the shape (70,); expected whole numbers (M,)."),
        (
            {"splits": "trial"},
            "splits is 'trial'; expected hash, train, val, test, restval, or an entry for every image.",
        ),
        ({"splits": [0, 1]}, "splits has the shape (2,); expected an entry for each of 40 images."),
        ({"splits": [9] * 40}, "splits has 9 to 9; expected 0 to 3."),
        (
            {"image_ids": ["a"] * 40},
            "the id 'a' is there more than once, of images 0 and 1; every image needs its own id.",
        ),
        (
            {"caption_images": None},
            "the image features have 40 rows, the text features 70; expected as many, row by row "
            "the same, or caption_images that says which image a caption is of.",
        ),
        ({"texts": iter([])}, "texts has no blocks; expected arrays (rows, width)."),
        ({"texts": iter([np.ones((3, 4)) / 2])}, "texts ended after 3 rows; expected 70."),
        (
            {"texts": iter([np.ones((99, 4)) / 2])},
            "texts has more than 70 rows, as many as there are of all else of this side.",
        ),
        (
            {"projections": {"image/weight": np.ones((16, 2))}},
            "projections has no text/weight (D, E); expected image/weight and text/weight.",
        ),
    ],
)
def test_what_is_wrong_is_one_line(tmp_path, changes, message):
    arguments = made(**changes)
    if isinstance(changes.get("texts"), type(iter([]))):
        arguments["images"] = np.ones((IMAGES, 4)) / 2
    with pytest.raises(ClipretError) as caught:
        write_cache(tmp_path / "a.h5", **arguments)
    assert str(caught.value) == message
    assert isinstance(caught.value, (DatasetError, UsageError))
    assert not (tmp_path / "a.h5").exists()


def test_a_sample_of_another_encoders_embeddings_is_not_called_damage(tmp_path):
    path = tmp_path / "a.h5"
    captions = [f"caption {row}" for row in range(8)]
    write_cache(path, texts=embeddings(8, width=128)[1], captions=captions, model="tiny-emoji")
    result = verify(VerifyConfig(path, sample=3, device="cpu"))
    assert not result["sound"]
    assert result["verdict"] == (
        f"{path} holds what was imported, and this is not what the encoder gives for these files and captions: "
        f"captions encoded again; look at --model, --root, and the order of the table's rows."
    )
