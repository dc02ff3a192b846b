import itertools

import numpy as np
import pytest

from clipret import EvalConfig, FeatureCache, evaluate
from clipret.cache import open_writer
from clipret.errors import UsageError
from clipret.protocols.bounds import best_reachable
from clipret.protocols.protocol import make_protocol, split_protocol
from tests.conftest import contents

K = (1, 2, 3)


def cache_of(path, captions, *, features=None):
    """A cache of test images with these captions each; features: of each text, equal for its image's; else noise."""
    texts = [text for own in captions for text in own]
    owners = np.repeat(np.arange(len(captions)), [len(own) for own in captions])
    cache_contents = contents(
        images=len(captions),
        image_ids=[str(row) for row in range(len(captions))],
        image_splits=np.full(len(captions), 2, dtype=np.uint8),
        captions=texts,
        caption_ids=[str(row) for row in range(len(texts))],
        caption_images=owners,
    )
    generator = np.random.default_rng(0)
    of_text = {text.lower(): generator.normal(size=16) for text in texts}
    with open_writer(path, cache_contents) as writer:
        writer.write_images(0, features=generator.normal(size=(len(captions), 24)).astype(np.float16), problems={})
        stacked = np.stack([of_text[text.lower()] for text in texts]).astype(np.float16)
        writer.write_texts(0, features=stacked, tokens=np.full(len(texts), 5))
    return FeatureCache(path)


SHARED = [["a"], ["a"], ["A "], ["a", "b"], ["b"], ["c", "c"], []]


def test_equal_texts_match_all_their_images_and_equal_naive_loops(tmp_path):
    cache = cache_of(tmp_path / "made.h5", SHARED)
    (fold,) = make_protocol(cache, "split-equal-texts").folds
    texts = [cache.captions[row].lower().strip() for row in fold.text_rows]
    sets = [{text.lower().strip() for text in own} for own in SHARED]
    expected = {
        "t2i": [(place, image) for place, text in enumerate(texts) for image in range(7) if text in sets[image]],
        "i2t": [(image, place) for image in range(7) for place, text in enumerate(texts) if text in sets[image]],
    }
    assert {
        direction: list(zip(*map(np.ndarray.tolist, pairs), strict=True)) for direction, pairs in fold.matches.items()
    } == (expected)
    (plain,) = split_protocol(cache, split="test").folds
    for direction in ("t2i", "i2t"):
        assert fold.queries(direction) == plain.queries(direction)


def test_the_best_reachable_is_that_of_all_orders(tmp_path):
    cache = cache_of(tmp_path / "made.h5", SHARED)
    best = best_reachable(cache, split_protocol(cache, split="test"), k=K)
    # One order of the images that own a text serves all its captions; others after them only lose ranks.
    owners = {"a": [0, 1, 2, 3], "b": [3, 4], "c": [5, 5]}
    hits = {
        cut: sum(
            max(sum(image in order[:cut] for image in own) for order in itertools.permutations(sorted(set(own))))
            for own in owners.values()
        )
        for cut in K
    }
    assert best["t2i"] == {f"R@{cut}": pytest.approx(hits[cut] / 8) for cut in K}
    # Images 0 to 2 find "a" behind three others, 3 and 4 "b" behind one, 5 its own captions first; 6 is no query.
    assert best["i2t"] == {"R@1": pytest.approx(1 / 6), "R@2": pytest.approx(3 / 6), "R@3": pytest.approx(3 / 6)}


def test_no_head_exceeds_the_bound(tmp_path):
    captions = [[f"a view of place {image // 4}"] for image in range(24)]
    cache = cache_of(tmp_path / "made.h5", captions)
    report = evaluate(EvalConfig(cache=cache.path, zero_shot=True, resamples=0))
    best, results = report["protocol"]["best_reachable"], report["results"]["zero-shot"]
    assert best == {
        "t2i": {"R@1": 0.25, "R@5": 1.0, "R@10": 1.0},
        "i2t": {"R@1": 0.0, "R@5": 1.0, "R@10": 1.0},
    }
    assert all(
        results[direction][name] <= value for direction, figures in best.items() for name, value in figures.items()
    )
    equal = evaluate(EvalConfig(cache=cache.path, zero_shot=True, resamples=0, protocol=("split-equal-texts",)))
    assert equal["protocol"]["best_reachable"]["i2t"] == {"R@1": 1.0, "R@5": 1.0, "R@10": 1.0}
    assert equal["results"]["zero-shot"]["t2i"]["R@10"] >= results["t2i"]["R@10"]


def test_captions_of_their_own_bound_nothing(tmp_path):
    cache = cache_of(tmp_path / "made.h5", [["a", "a"], ["b"], ["c", "d"]])
    best = best_reachable(cache, split_protocol(cache, split="test"), k=K)
    assert best == {direction: {f"R@{cut}": 1.0 for cut in K} for direction in ("t2i", "i2t")}


def test_matches_of_another_truth_have_no_bound(tmp_path):
    cache = cache_of(tmp_path / "made.h5", SHARED)
    protocol = make_protocol(cache, "split-equal-texts")
    other = type(protocol)("coco-karpathy-cxc", "test", protocol.folds, left_out=0)
    assert best_reachable(cache, other, k=K) is None


def test_so_many_pairs_that_they_cannot_be_ranked_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("clipret.protocols.matches._MOST_PAIRS", 20)
    cache = cache_of(tmp_path / "made.h5", SHARED)
    with pytest.raises(UsageError) as caught:
        make_protocol(cache, "split-equal-texts")
    assert str(caught.value) == (
        f"--protocol split-equal-texts: captions of {cache.path} that are the same text make 22 matching pairs, over "
        f"20; too few different texts for a retrieval test; choose --protocol split."
    )


def test_the_protocol_takes_any_split_and_goes_with_split(tmp_path):
    cache = cache_of(tmp_path / "made.h5", SHARED)
    config = EvalConfig(
        cache=cache.path, zero_shot=True, resamples=0, split="test", protocol=("split-equal-texts", "split")
    )
    report = evaluate(config)
    names = [measured["protocol"]["name"] for measured in (report, *report["also"])]
    assert names == ["split-equal-texts", "split"]
    assert report["protocol"]["digest"] != report["also"][0]["protocol"]["digest"]
