import dataclasses

import numpy as np
import pytest

from clipret import EvalConfig, FeatureCache, evaluate
from clipret.cache import open_writer
from clipret.config import PROTOCOLS, SPLIT_PROTOCOLS
from clipret.errors import DatasetError, UsageError
from clipret.evaluation import inputs as sources
from clipret.protocols import matches as protocol_matches
from clipret.protocols.protocol import _RULES, default_protocol, make_protocol, protocol_digest, split_protocol
from tests.conftest import contents, write_cache

CAPTIONS = (6, 5, 7, 5, 5, 4)


def cache_of(tmp_path, dataset: str, *, unusable: tuple[int, ...] = (), **inputs) -> FeatureCache:
    """Six images, the last four of them test, with 4 to 7 captions; captions of image 2 come last."""
    owners = np.repeat(np.arange(6), CAPTIONS)
    owners = np.concatenate([owners[owners != 2], owners[owners == 2]])
    cache_contents = contents(
        images=6,
        image_ids=[str(10 * row) for row in range(6)],
        image_splits=np.array([0, 1, 2, 2, 2, 2], dtype=np.uint8),
        captions=[f"caption {row}" for row in range(len(owners))],
        caption_ids=[str(row) for row in range(len(owners))],
        caption_images=owners,
        inputs={**contents().inputs, "dataset": dataset, **inputs},
    )
    path = tmp_path / f"{dataset}.h5"
    generator = np.random.default_rng(0)
    with open_writer(path, cache_contents) as writer:
        features = generator.normal(size=(6, 24)).astype(np.float16)
        writer.write_images(0, features=features, problems=dict.fromkeys(unusable, "empty file"))
        texts = generator.normal(size=(len(owners), 16)).astype(np.float16)
        writer.write_texts(0, features=texts, tokens=np.full(len(owners), 5))
    return FeatureCache(path)


def test_a_split_takes_every_usable_image_and_all_its_captions(tmp_path):
    cache = cache_of(tmp_path, "made", unusable=(3,))
    protocol = split_protocol(cache, split="test")
    (fold,) = protocol.folds
    assert (fold.image_rows.tolist(), protocol.left_out) == ([2, 4, 5], 1)
    assert fold.text_rows.tolist() == [row for row, image in enumerate(cache.caption_images) if image in (2, 4, 5)]
    assert (fold.image_rows[fold.caption_images] == cache.caption_images[fold.text_rows]).all()


@pytest.mark.parametrize(
    ("dataset", "protocol"),
    [
        ("coco", "coco-val2017"),
        ("coco-karpathy", "coco-karpathy-5k"),
        ("flickr30k", "flickr30k-karpathy-1k"),
        ("flickr30k-hash", "split"),
        ("emoji", "split"),
        ("shop", "split"),
    ],
)
def test_the_default_is_what_the_literature_measures_the_data_set_by(tmp_path, dataset, protocol):
    assert default_protocol(cache_of(tmp_path, dataset)) == protocol


@pytest.mark.parametrize(
    ("dataset", "name", "captions"),
    [
        ("coco", "coco-val2017", [5, 5, 5, 4]),
        ("coco", "coco-val2017-all", [7, 5, 5, 4]),
        ("coco-karpathy", "coco-karpathy-5k", [7, 5, 5, 4]),
        ("coco-karpathy", "coco-karpathy-5k-first5", [5, 5, 5, 4]),
        ("flickr30k", "flickr30k-karpathy-1k", [7, 5, 5, 4]),
        ("made", "split", [7, 5, 5, 4]),
    ],
)
def test_a_protocol_takes_all_captions_or_the_first_five(tmp_path, dataset, name, captions):
    cache = cache_of(tmp_path, dataset)
    (fold,) = make_protocol(cache, name).folds
    assert fold.image_rows.tolist() == [2, 3, 4, 5]
    assert np.bincount(fold.caption_images).tolist() == captions
    rows_of_2 = fold.text_rows[fold.caption_images == 0]
    assert rows_of_2.tolist() == np.flatnonzero(cache.caption_images == 2)[: captions[0]].tolist()


def test_a_small_gallery_is_marked_not_comparable(tmp_path):
    described = make_protocol(cache_of(tmp_path, "coco"), "coco-val2017").describe()
    assert described["remarks"] == ["4 images where the protocol has 5,000"]
    assert (described["t2i"], described["i2t"]) == ({"queries": 19, "gallery": 4}, {"queries": 4, "gallery": 19})


def test_a_prompt_and_cleaned_captions_are_marked_not_comparable(tmp_path):
    cache = cache_of(tmp_path, "coco", prompt="a photo of {}", caption_clean="lower")
    assert list(make_protocol(cache, "coco-val2017-all").remarks)[1:] == [
        "prompt 'a photo of {}' where the protocol has raw captions",
        "caption clean 'lower' where the protocol has raw captions",
    ]


def test_an_unusable_image_is_left_out_and_counted(tmp_path):
    protocol = make_protocol(cache_of(tmp_path, "coco", unusable=(0, 4)), "coco-val2017")
    assert (protocol.describe()["images"], protocol.describe()["images_left_out"]) == (3, 1)
    assert protocol.remarks == ("4 images where the protocol has 5,000",)


@pytest.mark.parametrize(
    ("dataset", "name", "message"),
    [
        (
            "coco-karpathy",
            "coco-val2017",
            "needs a cache of data set 'coco', {path} is of 'coco-karpathy'; extract one with: clipret extract "
            "--dataset coco",
        ),
        (
            "emoji",
            "coco-karpathy-1k",
            "needs a cache of data set 'coco-karpathy', {path} is of 'emoji'; extract one with: clipret extract "
            "--dataset coco --split karpathy",
        ),
        (
            "flickr30k-hash",
            "flickr30k-karpathy-1k",
            "needs a cache of data set 'flickr30k', {path} is of 'flickr30k-hash'; extract one with: clipret extract "
            "--dataset flickr30k",
        ),
        ("coco", "coco-karpathy-5k", "needs 5,000 images, {path} has 0 of them; extract all of COCO."),
    ],
)
def test_a_cache_without_the_protocols_images_is_refused(tmp_path, dataset, name, message):
    cache = cache_of(tmp_path, dataset)
    with pytest.raises(UsageError) as caught:
        make_protocol(cache, name)
    assert str(caught.value) == f"--protocol {name} {message.format(path=cache.path)}"


def test_every_protocol_that_can_be_asked_for_can_be_made():
    assert set(PROTOCOLS) == {*SPLIT_PROTOCOLS, *_RULES}


@pytest.mark.parametrize(
    ("dataset", "name", "otherwise"),
    [
        ("coco", "coco-karpathy-1k", "extract COCO with --split karpathy"),
        ("coco", "coco-karpathy-cxc", "choose another --protocol"),
        ("coco-karpathy", "coco-karpathy-eccv", "choose another --protocol"),
    ],
)
def test_without_the_package_the_error_says_what_to_install(tmp_path, monkeypatch, dataset, name, otherwise):
    cache = cache_of(tmp_path, dataset)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(DatasetError) as caught:
        make_protocol(cache, name)
    assert str(caught.value) == (
        "Karpathy's test ids are in the package `eccv-caption`, which is not installed; run: pip install "
        f"'clipret[karpathy]', or {otherwise}."
    )


def test_a_gallery_without_a_usable_image_is_refused(tmp_path):
    cache = cache_of(tmp_path, "coco", unusable=(2, 3, 4, 5))
    with pytest.raises(UsageError, match=r"--protocol coco-val2017: .* has too few usable images and captions for it"):
        make_protocol(cache, "coco-val2017")


def test_metrics_of_several_galleries_are_their_mean(tmp_path, monkeypatch):
    cache = FeatureCache(write_cache(tmp_path / "made.h5"))
    test, val = (split_protocol(cache, split=split) for split in ("test", "val"))
    both = dataclasses.replace(test, folds=(*test.folds, *val.folds))
    monkeypatch.setattr(sources, "make_protocol", lambda cache, name: both)
    mean = evaluate(EvalConfig(cache=cache.path, zero_shot=True))["results"]["zero-shot"]
    single = [
        evaluate(EvalConfig(cache=cache.path, zero_shot=True, split=split))["results"]["zero-shot"]
        for split in ("test", "val")
    ]
    for direction, metrics in mean.items():
        for name, value in metrics.items():
            assert value == pytest.approx(np.mean([one[direction][name] for one in single]), abs=1e-12)


@pytest.fixture
def karpathy(monkeypatch):
    """Ground truth of the six images: captions 0 to 3 of each are known, and some match other images too.

    Returns how to set the matching pairs, as caption -> images and image -> captions.
    """
    owners = np.repeat(np.arange(6), CAPTIONS)
    owners = np.concatenate([owners[owners != 2], owners[owners == 2]])
    own = {image: np.flatnonzero(owners == image)[:4].tolist() for image in range(6)}
    captions = {caption: 10 * image for image, listed in own.items() for caption in listed}
    monkeypatch.setattr(protocol_matches, "karpathy_test_captions", lambda *, otherwise: captions)

    def set_pairs(t2i, i2t):
        pairs = {
            direction: [(query, item) for query, items in listed.items() for item in items]
            for direction, listed in {"t2i": t2i, "i2t": i2t}.items()
        }
        monkeypatch.setattr(protocol_matches, "matching_ids", lambda truth, *, otherwise: pairs)
        return own

    return set_pairs


def matches_by_id(cache, fold):
    """The pairs of a fold as ids, by direction."""
    images, captions = (
        [int(ids[row]) for row in rows]
        for ids, rows in ((cache.image_ids, fold.image_rows), (cache.caption_ids, fold.text_rows))
    )
    sides = {"t2i": (captions, images), "i2t": (images, captions)}
    return {
        direction: [(asking[query], items[item]) for query, item in zip(*fold.matches[direction], strict=True)]
        for direction, (asking, items) in sides.items()
    }


@pytest.mark.parametrize("name", ["coco-karpathy-cxc", "coco-karpathy-eccv"])
def test_known_pairs_are_matches_and_all_known_captions_the_gallery(tmp_path, karpathy, name):
    cache = cache_of(tmp_path, "coco-karpathy")
    # Images 20 to 50 are the test split: image 10 and what is of it are not in the gallery, nor is caption 999.
    of_3 = np.flatnonzero(cache.caption_images == 3)[:5].tolist()
    of_1 = int(np.flatnonzero(cache.caption_images == 1)[0])
    own = karpathy(
        t2i={of_3[0]: [50, 30], of_3[1]: [10, 20], of_3[2]: [10], of_1: [20], of_3[4]: [30]},
        i2t={50: [of_3[1], 999, of_3[0]], 20: [of_1], 10: [of_3[0]], 30: [of_3[3], of_3[4]]},
    )
    (fold,) = (protocol := make_protocol(cache, name)).folds
    assert fold.image_rows.tolist() == [2, 3, 4, 5]
    assert fold.text_rows.tolist() == sorted(caption for image in (2, 3, 4, 5) for caption in own[image])
    # The fifth caption of image 3 is not a known caption, although pairs name it.
    assert matches_by_id(cache, fold) == {
        "t2i": [(of_3[0], 30), (of_3[0], 50), (of_3[1], 20)],
        "i2t": [(30, of_3[3]), (50, of_3[0]), (50, of_3[1])],
    }
    described = protocol.describe()
    assert (described["images"], described["captions"]) == (4, 16)
    assert (described["t2i"], described["i2t"]) == ({"queries": 2, "gallery": 4}, {"queries": 2, "gallery": 16})
    assert described["remarks"] == ["4 images where the protocol has 5,000"]


def test_pairs_with_an_unusable_image_are_left_out(tmp_path, karpathy):
    cache = cache_of(tmp_path, "coco-karpathy", unusable=(3,))
    captions = [int(np.flatnonzero(cache.caption_images == image)[0]) for image in (2, 3, 4)]
    karpathy(
        t2i={captions[0]: [20, 30], captions[1]: [30, 40], captions[2]: [30]},
        i2t={30: [captions[0]], 20: captions, 40: [captions[1]]},
    )
    protocol = make_protocol(cache, "coco-karpathy-cxc")
    assert matches_by_id(cache, protocol.folds[0]) == {
        "t2i": [(captions[0], 20)],
        "i2t": [(20, captions[2]), (20, captions[0])],
    }
    assert (protocol.left_out, protocol.describe()["t2i"]["queries"]) == (1, 1)


def test_a_caption_counts_as_known_by_its_image_too(tmp_path, karpathy):
    cache = cache_of(tmp_path, "coco-karpathy")
    own = karpathy(t2i={}, i2t={})
    known_rows = np.flatnonzero(protocol_matches.known_captions(cache)).tolist()
    assert known_rows == sorted(caption for listed in own.values() for caption in listed)
    cache.image_ids[3] = "31"
    known_rows = np.flatnonzero(protocol_matches.known_captions(cache)).tolist()
    assert known_rows == sorted(caption for image, listed in own.items() for caption in listed if image != 3)


@pytest.mark.parametrize("direction", ["t2i", "i2t"])
def test_a_gallery_without_queries_is_refused(tmp_path, karpathy, direction):
    cache = cache_of(tmp_path, "coco-karpathy")
    caption = int(np.flatnonzero(cache.caption_images == 3)[0])
    karpathy(**({"t2i": {caption: [30]}, "i2t": {30: [caption]}} | {direction: {}}))
    with pytest.raises(UsageError) as caught:
        make_protocol(cache, "coco-karpathy-eccv")
    assert str(caught.value) == (
        f"--protocol coco-karpathy-eccv: {cache.path} has too few usable images and captions for it."
    )


def test_the_same_gallery_with_other_matches_has_another_digest(tmp_path, karpathy):
    cache = cache_of(tmp_path, "coco-karpathy")
    caption = int(np.flatnonzero(cache.caption_images == 3)[0])
    digests = set()
    for image in (30, 40):
        karpathy(t2i={caption: [image]}, i2t={30: [caption]})
        digests.add(protocol_digest(cache, make_protocol(cache, "coco-karpathy-cxc")))
    assert len(digests) == 2
