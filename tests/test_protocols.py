import dataclasses
import warnings

import numpy as np
import pytest
from conftest import contents, write_cache

from clipret import EvalConfig, FeatureCache, evaluate
from clipret.cache import open_writer
from clipret.config import PROTOCOLS
from clipret.errors import DatasetError, UsageError
from clipret.heads import LinearHead, embed
from clipret.karpathy_ids import karpathy_test_ids
from clipret.protocols import _RULES, default_protocol, make_protocol, split_protocol
from clipret.retrieval import TIE_TOLERANCE

CAPTIONS = (6, 5, 7, 5, 5, 4)


def cache_of(tmp_path, dataset: str, *, unusable: tuple[int, ...] = (), **inputs) -> FeatureCache:
    """Six images, the last four of them test, with 4 to 7 captions; captions of image 2 come last."""
    owners = np.repeat(np.arange(6), CAPTIONS)
    owners = np.concatenate([owners[owners != 2], owners[owners == 2]])
    made = contents(
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
    with open_writer(path, made) as writer:
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


def test_a_small_gallery_is_said_not_to_be_comparable(tmp_path):
    described = make_protocol(cache_of(tmp_path, "coco"), "coco-val2017").describe()
    assert described["remarks"] == ["4 images where the protocol has 5,000"]
    assert (described["t2i"], described["i2t"]) == ({"queries": 19, "gallery": 4}, {"queries": 4, "gallery": 19})


def test_a_prompt_and_cleaned_captions_are_said_not_to_be_comparable(tmp_path):
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
        ("coco", "coco-karpathy-5k", "needs 5,000 images, {path} has 0 of them; extract COCO whole."),
    ],
)
def test_a_cache_without_the_protocols_images_is_refused(tmp_path, dataset, name, message):
    cache = cache_of(tmp_path, dataset)
    with pytest.raises(UsageError) as caught:
        make_protocol(cache, name)
    assert str(caught.value) == f"--protocol {name} {message.format(path=cache.path)}"


def test_every_protocol_that_can_be_asked_for_can_be_made():
    assert set(PROTOCOLS) == {"split", *_RULES}


def test_without_the_package_a_cache_of_the_2017_release_is_told_what_to_do(tmp_path, monkeypatch):
    cache = cache_of(tmp_path, "coco")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(
        DatasetError, match=r"pip install 'clipret\[karpathy\]', or extract COCO with --split karpathy\.$"
    ):
        make_protocol(cache, "coco-karpathy-1k")


def test_a_gallery_without_a_usable_image_is_refused(tmp_path):
    cache = cache_of(tmp_path, "coco", unusable=(2, 3, 4, 5))
    with pytest.raises(UsageError, match=r"--protocol coco-val2017: .* has too few usable images and captions for it"):
        make_protocol(cache, "coco-val2017")


@pytest.fixture(scope="module")
def package():
    """The package's own ground truth and metric code, and 25,010 captions: ten images have one more than five."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from eccv_caption import Metrics

        return Metrics()


def karpathy_contents(package, *, dataset: str, **changes):
    """A cache of the real test ids and caption ids between other images; ten test images carry a sixth caption."""
    ids = karpathy_test_ids(otherwise="")
    captions = {number: sorted(package.coco_gts["i2t"][number]) for number in ids}
    for place, number in enumerate(ids[:10]):
        captions[number] = [*captions[number], 9_000_000 + place]
    # The data set 'coco' has its images ascending, and they are no split of their own there.
    listed = ids if dataset == "coco-karpathy" else sorted(ids)
    splits = np.full(len(listed) + 2, 2 if dataset == "coco-karpathy" else 0, dtype=np.uint8)
    splits[-2:] = 0 if dataset == "coco-karpathy" else 2
    listed = [*listed, 999_998, 999_999]
    captions |= {999_998: [9_999_998], 999_999: [9_999_999]}
    flat = [caption for number in listed for caption in captions[number]]
    return contents(
        images=len(listed),
        projections={"image/weight": np.eye(24), "text/weight": np.eye(24), "logit_scale": 4.6},
        image_ids=[str(number) for number in listed],
        image_splits=splits,
        captions=[f"caption {caption}" for caption in flat],
        caption_ids=[str(caption) for caption in flat],
        caption_images=np.repeat(np.arange(len(listed)), [len(captions[number]) for number in listed]),
        inputs={**contents().inputs, "dataset": dataset},
        dtype="float32",
        **changes,
    )


def ranked_by_the_package(package, cache: FeatureCache, *, best: int) -> dict:
    """The `best` items of every query among the 5,000 images and 25,000 captions, as the package wants them."""
    known = package.coco_gts["t2i"]
    image_rows = [row for row, number in enumerate(cache.image_ids) if int(number) in package.coco_gts["i2t"]]
    text_rows = [row for row, number in enumerate(cache.caption_ids) if int(number) in known]
    images = np.array([int(cache.image_ids[row]) for row in image_rows])
    texts = np.array([int(cache.caption_ids[row]) for row in text_rows])
    head = LinearHead(cache.projections)
    scores = embed(head.embed_texts, cache.text_features[text_rows], device="cpu") @ (
        embed(head.embed_images, cache.image_features[image_rows], device="cpu").T
    )
    # The package has no rule for ties: it gets the lists in which ours, within the tolerance, go against us.
    owners = np.searchsorted(images, [known[text][0] for text in texts], sorter=(order := np.argsort(images)))
    scores[np.arange(len(texts)), order[owners]] -= TIE_TOLERANCE
    t2i = images[scores.topk(best, dim=1).indices.numpy()]
    i2t = texts[scores.T.contiguous().topk(5 * best, dim=1).indices.numpy()]
    return {
        "t2i": dict(zip(texts.tolist(), t2i.tolist(), strict=True)),
        "i2t": dict(zip(images.tolist(), i2t.tolist(), strict=True)),
    }


def write_related(path, made, *, noise: float) -> FeatureCache:
    """A cache in which an image and its captions have the same embedding, but for the noise."""
    generator = np.random.default_rng(0)
    images = generator.normal(size=(len(made.image_ids), 24))
    texts = images[made.caption_images] + noise * generator.normal(size=(len(made.captions), 24))
    with open_writer(path, made) as writer:
        writer.write_images(0, features=images.astype(np.float32), problems={})
        writer.write_texts(0, features=texts.astype(np.float32), tokens=np.full(len(texts), 5))
    return FeatureCache(path)


@pytest.mark.parametrize("dataset", ["coco-karpathy", "coco"])
def test_5k_and_1k_equal_the_packages_own_numbers_on_its_real_ids(package, tmp_path, dataset):
    """'Done when': R@1, R@5 and R@10 of both directions, to 1e-12."""
    made = karpathy_contents(package, dataset=dataset)
    cache = write_related(tmp_path / "karpathy.h5", made, noise=1.8)
    ranked = ranked_by_the_package(package, cache, best=200)
    theirs = {"coco-karpathy-5k-first5": package.coco_5k_recalls, "coco-karpathy-1k": package.coco_1k_recalls}
    report = evaluate(EvalConfig(cache=cache.path, zero_shot=True, protocol=tuple(theirs)))
    for measured in (report, *report["also"]):
        assert measured["protocol"]["remarks"] == []
        for k in (1, 5, 10):
            expected = theirs[measured["protocol"]["name"]](ranked, "all", K=k)
            for direction in ("t2i", "i2t"):
                assert 0.1 < expected[direction] < 0.99
                found = measured["results"]["zero-shot"][direction][f"R@{k}"]
                assert found == pytest.approx(expected[direction], abs=1e-12)
    folds = report["also"][0]["protocol"]
    assert (folds["folds"], folds["t2i"]) == (5, {"queries": 25_000, "gallery": 1000})


def test_all_captions_of_5k_are_those_of_the_literature(package, tmp_path):
    """Ten test images have a sixth caption: 25,010."""
    cache = FeatureCache(write_cache(tmp_path / "coco.h5", karpathy_contents(package, dataset="coco")))
    described = make_protocol(cache, "coco-karpathy-5k").describe()
    assert (described["images"], described["captions"], described["remarks"]) == (5000, 25_010, [])


def test_a_missing_image_moves_no_other_to_another_fold(package, tmp_path):
    made = karpathy_contents(package, dataset="coco-karpathy")
    cache = FeatureCache(write_cache(tmp_path / "whole.h5", made))
    whole = make_protocol(cache, "coco-karpathy-1k")
    states = cache.image_states.copy()
    states[[3, 4, 2_500]] = 2
    holey = type("Holey", (), {**vars(cache), "usable": states == 1})()
    folds = make_protocol(holey, "coco-karpathy-1k").folds
    assert [len(fold.image_rows) for fold in folds] == [998, 1000, 999, 1000, 1000]
    for fold, complete in zip(folds, whole.folds, strict=True):
        assert set(fold.image_rows) <= set(complete.image_rows)


def test_folds_are_the_thousands_of_the_packages_order(package, tmp_path):
    cache = FeatureCache(write_cache(tmp_path / "coco.h5", karpathy_contents(package, dataset="coco")))
    for number, fold in enumerate(make_protocol(cache, "coco-karpathy-1k").folds):
        ids = [int(cache.caption_ids[row]) for row in fold.text_rows]
        assert set(ids) == set(package.coco_ids[5000 * number : 5000 * (number + 1)].tolist())


def test_metrics_of_several_galleries_are_their_mean(tmp_path, monkeypatch):
    from clipret import evaluation

    cache = FeatureCache(write_cache(tmp_path / "made.h5"))
    test, val = (split_protocol(cache, split=split) for split in ("test", "val"))
    both = dataclasses.replace(test, folds=(*test.folds, *val.folds))
    monkeypatch.setattr(evaluation, "make_protocol", lambda cache, name: both)
    mean = evaluate(EvalConfig(cache=cache.path, zero_shot=True))["results"]["zero-shot"]
    single = [
        evaluate(EvalConfig(cache=cache.path, zero_shot=True, split=split))["results"]["zero-shot"]
        for split in ("test", "val")
    ]
    for direction, metrics in mean.items():
        for name, value in metrics.items():
            assert value == pytest.approx(np.mean([one[direction][name] for one in single]), abs=1e-12)
