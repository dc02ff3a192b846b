"""Protocols on Karpathy's test images: equal to the metric code of `eccv-caption` on its real ids."""

import warnings
from types import SimpleNamespace

import numpy as np
import pytest

from clipret import EvalConfig, FeatureCache, evaluate
from clipret.annotations.karpathy_ids import karpathy_test_captions, karpathy_test_ids, matching_ids
from clipret.cache import open_writer
from clipret.heads.linear import LinearHead
from clipret.protocols.protocol import make_protocol, protocol_digest
from clipret.retrieval.gallery import embed
from clipret.retrieval.ties import TIE_TOLERANCE
from tests.conftest import contents

WIDTH = 24
DATASETS = ["coco-karpathy", "coco"]
# ECCV Caption's matches that are not in its gallery: image -> caption.
UNREACHABLE = {575916: 144675, 421999: 467259}


@pytest.fixture(scope="module")
def package():
    """The package's own ground truth and metric code."""
    with warnings.catch_warnings():
        # It imports ujson.
        warnings.simplefilter("ignore")
        from eccv_caption import Metrics

        return Metrics()


def karpathy_contents(package, *, dataset: str):
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
        projections={"image/weight": np.eye(WIDTH), "text/weight": np.eye(WIDTH), "logit_scale": 4.6},
        image_ids=[str(number) for number in listed],
        image_splits=splits,
        captions=[f"caption {caption}" for caption in flat],
        caption_ids=[str(caption) for caption in flat],
        caption_images=np.repeat(np.arange(len(listed)), [len(captions[number]) for number in listed]),
        inputs={**contents().inputs, "dataset": dataset},
        dtype="float32",
    )


def write_related(package, path, cache_contents) -> FeatureCache:
    """A cache in which images that match the same captions are alike, and a caption is its image with noise."""
    generator = np.random.default_rng(0)
    own = generator.normal(size=(len(cache_contents.image_ids), WIDTH))
    rows = {int(number): row for row, number in enumerate(cache_contents.image_ids)}
    owners = {caption: listed[0] for caption, listed in package.coco_gts["t2i"].items()}
    pairs = {(owners[caption], image) for caption, listed in package.eccv_gts["t2i"].items() for image in listed}
    for image, listed in package.eccv_gts["i2t"].items():
        pairs |= {(owners[caption], image) for caption in listed if caption in owners}
    left, right = np.array([[rows[one], rows[other]] for one, other in sorted(pairs) if one != other]).T
    images = own.copy()
    np.add.at(images, left, 0.5 * own[right])
    np.add.at(images, right, 0.5 * own[left])
    images /= np.linalg.norm(images, axis=1, keepdims=True) / WIDTH**0.5
    noise = generator.uniform(0.3, 3, size=(len(cache_contents.captions), 1)) * generator.normal(
        size=(len(cache_contents.captions), WIDTH)
    )
    texts = images[cache_contents.caption_images] + noise
    with open_writer(path, cache_contents) as writer:
        writer.write_images(0, features=images.astype(np.float32), problems={})
        writer.write_texts(0, features=texts.astype(np.float32), tokens=np.full(len(texts), 5))
    return FeatureCache(path)


@pytest.fixture(scope="module", params=DATASETS)
def cache(request, package, tmp_path_factory) -> FeatureCache:
    path = tmp_path_factory.mktemp("coco") / f"{request.param}.h5"
    return write_related(package, path, karpathy_contents(package, dataset=request.param))


class Lists:
    """The input of the package: the best items of every query among the 5,000 images and 25,000 captions."""

    def __init__(self, package, cache: FeatureCache):
        image_rows = [row for row, number in enumerate(cache.image_ids) if int(number) in package.coco_gts["i2t"]]
        text_rows = [row for row, number in enumerate(cache.caption_ids) if int(number) in package.coco_gts["t2i"]]
        # Of Python's numbers, so that lists share them: there will be millions in lists.
        self.images = np.array([int(cache.image_ids[row]) for row in image_rows], dtype=object)
        self.texts = np.array([int(cache.caption_ids[row]) for row in text_rows], dtype=object)
        head = LinearHead(cache.projections)
        self.image_embeddings = embed(head.embed_images, cache.image_features[image_rows], device="cpu").double()
        self.text_embeddings = embed(head.embed_texts, cache.text_features[text_rows], device="cpu").double()

    def best(self, truth: dict, *, images: int, captions: int) -> dict:
        """{"t2i": {caption id: image ids}, "i2t": {image id: caption ids}}: so many images and captions, best first.

        The package has no rule for ties: it gets the lists in which ours, within the tolerance, go against the pairs
        that match by this truth.
        """
        texts, image_ids = (self.text_embeddings, self.texts), (self.image_embeddings, self.images)
        return {
            "t2i": self._lists(*texts, *image_ids, matching=truth["t2i"], best=images),
            "i2t": self._lists(*image_ids, *texts, matching=truth["i2t"], best=captions),
        }

    @staticmethod
    def _lists(asking, queries, gallery, items, *, matching, best) -> dict:
        place = {item: position for position, item in enumerate(items.tolist())}
        ours = {}
        for start in range(0, len(queries), 500):
            some = queries[start : start + 500].tolist()
            scores = asking[start : start + 500] @ gallery.T
            for row, query in enumerate(some):
                scores[row, [place[item] for item in matching.get(query, ()) if item in place]] -= TIE_TOLERANCE
            order = scores.topk(best, dim=1).indices.numpy()
            ours |= dict(zip(some, items[order].tolist(), strict=True))
        return ours


@pytest.fixture(scope="module")
def lists(package, cache) -> Lists:
    return Lists(package, cache)


def measured_by(cache, *names):
    report = evaluate(EvalConfig(cache=cache.path, zero_shot=True, protocol=names, resamples=0))
    return {measured["protocol"]["name"]: measured for measured in (report, *report.get("also", ()))}


@pytest.mark.ci
def test_recall_of_5k_1k_and_cxc_equals_the_packages_own(package, cache, lists):
    """Both directions, to 1e-12."""
    ours = measured_by(cache, "coco-karpathy-5k-first5", "coco-karpathy-1k", "coco-karpathy-cxc")
    # The 1K protocol looks for its 1,000 images and 5,000 captions in these lists.
    own = lists.best(package.coco_gts, images=200, captions=500)
    cxc = lists.best(package.cxc_gts, images=10, captions=10)
    theirs = {
        "coco-karpathy-5k-first5": (own, "coco_5k"),
        "coco-karpathy-1k": (own, "coco_1k"),
        "coco-karpathy-cxc": (cxc, "cxc"),
    }
    for name, (ranked, prefix) in theirs.items():
        expected = package.compute_all_metrics(ranked["i2t"], ranked["t2i"], target_metrics=(f"{prefix}_recalls",))
        assert ours[name]["protocol"]["remarks"] == []
        for k in (1, 5, 10):
            for direction in ("t2i", "i2t"):
                value = expected[f"{prefix}_r{k}"][direction]
                assert 0.1 < value < 0.99
                assert ours[name]["results"]["zero-shot"][direction][f"R@{k}"] == pytest.approx(value, abs=1e-12)
    sizes = {name: [measured["protocol"][direction] for direction in ("t2i", "i2t")] for name, measured in ours.items()}
    assert sizes == {
        "coco-karpathy-5k-first5": [{"queries": 25_000, "gallery": 5000}, {"queries": 5000, "gallery": 25_000}],
        "coco-karpathy-1k": [{"queries": 25_000, "gallery": 1000}, {"queries": 5000, "gallery": 5000}],
        "coco-karpathy-cxc": [{"queries": 24_972, "gallery": 5000}, {"queries": 5000, "gallery": 25_000}],
    }


ECCV = {"eccv_r1": "R@1", "eccv_rprecision": "R-Precision", "eccv_map_at_r": "mAP@R"}


@pytest.mark.ci
def test_eccv_caption_equals_the_packages_own_but_for_two_captions_that_cannot_be_found(
    package, cache, lists, monkeypatch
):
    measured = measured_by(cache, "coco-karpathy-eccv")["coco-karpathy-eccv"]
    ours = {
        direction: {name: values[name] for name in ECCV.values()}
        for direction, values in measured["results"]["zero-shot"].items()
    }
    ranked = lists.best(package.eccv_gts, images=19, captions=48)
    whole = package.compute_all_metrics(ranked["i2t"], ranked["t2i"], target_metrics=tuple(ECCV))
    assert all(0.05 < value < 0.9 for values in whole.values() for value in values.values())
    assert ours["t2i"] == pytest.approx({ECCV[name]: values["t2i"] for name, values in whole.items()}, abs=1e-12)
    assert ours["i2t"]["R@1"] == pytest.approx(whole["eccv_r1"]["i2t"], abs=1e-12)

    reachable = {
        image: [text for text in texts if text in package.coco_gts["t2i"]]
        for image, texts in package.eccv_gts["i2t"].items()
    }
    left_out = {
        image: set(texts) - set(reachable[image])
        for image, texts in package.eccv_gts["i2t"].items()
        if len(reachable[image]) < len(texts)
    }
    assert left_out == {image: {text} for image, text in UNREACHABLE.items()}
    monkeypatch.setattr(package, "eccv_gts", {**package.eccv_gts, "i2t": reachable})
    within = package.eccv_metrics(ranked, "all")
    assert ours["i2t"] == pytest.approx({ECCV[name]: values["i2t"] for name, values in within.items()}, abs=1e-12)
    # The effect of the two captions on its results.
    for name in ("eccv_rprecision", "eccv_map_at_r"):
        assert abs(whole[name]["i2t"] - within[name]["i2t"]) < 1.1e-4
    assert whole["eccv_map_at_r"]["i2t"] != within["eccv_map_at_r"]["i2t"]
    assert (measured["protocol"]["t2i"], measured["protocol"]["i2t"]) == (
        {"queries": 1332, "gallery": 5000},
        {"queries": 1261, "gallery": 25_000},
    )
    assert (measured["protocol"]["captions"], measured["protocol"]["remarks"]) == (25_000, [])


@pytest.mark.parametrize("truth", ["cxc", "eccv"])
def test_matches_of_the_gallery_are_the_packages_own(package, cache, truth):
    (fold,) = make_protocol(cache, f"coco-karpathy-{truth}").folds
    images = [int(cache.image_ids[row]) for row in fold.image_rows]
    captions = [int(cache.caption_ids[row]) for row in fold.text_rows]
    assert set(captions) == set(package.coco_ids.tolist())
    assert images == karpathy_test_ids(otherwise="")
    sides = {"t2i": (captions, images), "i2t": (images, captions)}
    for direction, (asking, gallery) in sides.items():
        queries, items = fold.matches[direction]
        ours = {(asking[query], gallery[item]) for query, item in zip(queries, items, strict=True)}
        expected = {
            (query, item) for query, listed in getattr(package, f"{truth}_gts")[direction].items() for item in listed
        }
        lost = set(UNREACHABLE.items()) if (truth, direction) == ("eccv", "i2t") else set()
        assert len(ours) == len(queries)
        assert ours == expected - lost
        assert lost <= expected


def test_ids_are_read_as_the_package_reads_them(package):
    captions = karpathy_test_captions(otherwise="")
    assert list(captions) == package.coco_ids.tolist()
    assert captions == {caption: package.coco_gts["t2i"][caption][0] for caption in captions}
    # COCO's own: the first image of Karpathy's file and its first sentence, an annotation of captions_val2014.json.
    assert captions[770337] == 391895
    # An early annotation of captions_val2014.json and captions_val2017.json.
    assert captions[38] == 179765
    for truth, theirs in (("cxc", package.cxc_gts), ("eccv", package.eccv_gts)):
        for direction, pairs in matching_ids(truth, otherwise="").items():
            assert pairs == [(query, item) for query, items in theirs[direction].items() for item in items]


def test_all_captions_of_5k_are_those_of_the_literature(cache):
    """Ten test images have a sixth caption: 25,010."""
    described = make_protocol(cache, "coco-karpathy-5k").describe()
    assert (described["images"], described["captions"], described["remarks"]) == (5000, 25_010, [])


def test_folds_are_the_thousands_of_the_packages_order(package, cache):
    for number, fold in enumerate(make_protocol(cache, "coco-karpathy-1k").folds):
        ids = [int(cache.caption_ids[row]) for row in fold.text_rows]
        assert set(ids) == set(package.coco_ids[5000 * number : 5000 * (number + 1)].tolist())


def changed(cache, **changes):
    """The cache with replaced attributes that protocols read."""
    read = ("image_ids", "image_splits", "image_states", "usable", "caption_ids", "captions", "caption_images")
    return SimpleNamespace(
        **{name: getattr(cache, name) for name in (*read, "inputs", "path", "text_states")} | changes
    )


def test_a_missing_image_moves_no_other_to_another_fold(cache):
    whole = make_protocol(cache, "coco-karpathy-1k")
    rows = {int(number): row for row, number in enumerate(cache.image_ids)}
    missing = [rows[number] for place, number in enumerate(karpathy_test_ids(otherwise="")) if place in (3, 4, 2500)]
    usable = cache.usable.copy()
    usable[missing] = False
    folds = make_protocol(changed(cache, usable=usable), "coco-karpathy-1k").folds
    assert [len(fold.image_rows) for fold in folds] == [998, 1000, 999, 1000, 1000]
    for fold, complete in zip(folds, whole.folds, strict=True):
        assert set(fold.image_rows) <= set(complete.image_rows)


def test_an_image_left_out_takes_its_matches_with_it(package, cache):
    rows = {int(number): row for row, number in enumerate(cache.image_ids)}
    missing = next(iter(package.eccv_gts["i2t"]))
    usable = cache.usable.copy()
    usable[rows[missing]] = False
    described = make_protocol(changed(cache, usable=usable), "coco-karpathy-eccv").describe()
    gone = set(package.coco_gts["i2t"][missing])
    asking = [text for text, images in package.eccv_gts["t2i"].items() if text not in gone and set(images) - {missing}]
    assert (described["images_left_out"], described["images"], described["captions"]) == (1, 4999, 24_995)
    assert described["t2i"] == {"queries": len(asking), "gallery": 4999}
    assert described["i2t"] == {"queries": 1260, "gallery": 24_995}


def test_missing_captions_are_marked_not_comparable(cache):
    ids = list(cache.caption_ids)
    for caption in (38, 770337):
        ids[ids.index(str(caption))] = f"another {caption}"
    for truth in ("cxc", "eccv"):
        protocol = make_protocol(changed(cache, caption_ids=ids), f"coco-karpathy-{truth}")
        assert protocol.remarks == ("24,998 captions where the protocol has 25,000",)


def test_cxc_and_eccv_are_other_questions_than_5k(cache):
    names = ("coco-karpathy-5k-first5", "coco-karpathy-cxc", "coco-karpathy-eccv")
    assert len({protocol_digest(cache, make_protocol(cache, name)) for name in names}) == 3
