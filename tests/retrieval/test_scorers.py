"""A head under each scoring, from choosing on val to ranks on test, against plain loops in float64."""

import numpy as np
import pytest

from clipret import FeatureCache
from clipret.heads.linear import LinearHead
from clipret.protocols.protocol import split_protocol
from clipret.retrieval import banks
from clipret.retrieval.banks import open_bank
from clipret.retrieval.gallery import Gallery, rank_folds
from clipret.retrieval.scorers import choose
from clipret.retrieval.scorings import SCORINGS, load_scoring
from tests.conftest import contents, write_cache
from tests.helpers.scorings import naive_csls, naive_dis, naive_nnn, naive_ranks

K = (1, 5, 10)


@pytest.fixture(params=[None, 17], ids=["distinct", "with equal images and captions"])
def cache(request, tmp_path):
    """200 images, 40 in val and 40 in test; the second time images and captions whose features repeat."""
    made = contents(images=200)
    path = write_cache(tmp_path / "made.h5", made)
    if request.param:
        from clipret.cache import open_writer

        generator = np.random.default_rng(1)
        images = generator.normal(size=(200, 24)).astype(np.float16)[np.arange(200) % request.param]
        texts = generator.normal(size=(len(made.captions), 16)).astype(np.float16)
        texts = texts[np.arange(len(made.captions)) % (2 * request.param)]
        path.unlink()
        with open_writer(path, made) as writer:
            writer.write_images(0, features=images, problems={})
            writer.write_texts(0, features=texts, tokens=np.full(len(texts), 3))
    return FeatureCache(path)


class Naive:
    """One split, embedded in float64 and scored on whole matrices."""

    def __init__(self, cache, split):
        unit = lambda rows: rows / np.linalg.norm(rows, axis=1, keepdims=True)  # noqa: E731
        images = np.flatnonzero(cache.image_splits == split)
        texts = np.flatnonzero(np.isin(cache.caption_images, images))
        self.images = unit(cache.image_features[images].astype(np.float64) @ cache.projections["image/weight"])
        self.texts = unit(cache.text_features[texts].astype(np.float64) @ cache.projections["text/weight"])
        owners = np.searchsorted(images, cache.caption_images[texts])
        self.positives = {
            "t2i": [[owner] for owner in owners],
            "i2t": [np.flatnonzero(owners == image).tolist() for image in range(len(images))],
        }

    def scores(self, name, direction, bank, parameters):
        queries, gallery = (self.texts, self.images) if direction == "t2i" else (self.images, self.texts)
        references = bank.texts if direction == "t2i" else bank.images
        items = bank.images if direction == "t2i" else bank.texts
        cosines = queries @ gallery.T
        if name == "cosine":
            return cosines
        if name == "csls":
            return naive_csls(cosines, references @ gallery.T, query_bank=queries @ items.T, **parameters)
        return {"nnn": naive_nnn, "dis": naive_dis}[name](cosines, references @ gallery.T, **parameters)

    def ranks(self, name, direction, bank, parameters):
        return naive_ranks(self.scores(name, direction, bank, parameters), self.positives[direction])

    def recalls(self, name, direction, bank, parameters):
        """R@1 + R@5 + R@10."""
        ranks = np.split(
            self.ranks(name, direction, bank, parameters),
            np.cumsum([len(matching) for matching in self.positives[direction]])[:-1],
        )
        return sum(np.mean([of_query[0] <= k for of_query in ranks]) for k in K)


def chosen(cache, name, **settings):
    measured = np.flatnonzero(cache.image_splits == 2)
    bank, val = open_bank(cache, measured=measured, tuned=False, scoring=name)
    common = {"device": "cpu", "block": 7, "precision": "fp32", **settings}
    return choose(LinearHead(cache.projections), "zero-shot", scoring=name, bank=bank, val=val, **common)


# csls has two parameters, and so the most combinations to try by loops.
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.ci if name == "csls" else ()) for name in SCORINGS]
)
def test_parameters_are_the_best_on_val_and_ranks_are_those_of_plain_loops(cache, name, monkeypatch):
    monkeypatch.setattr(banks, "_SCORES_AT_ONCE", 1000)
    scorer = chosen(cache, name)
    train, val, test = (Naive(cache, split) for split in range(3))
    (fold,) = split_protocol(cache, split="test").folds
    ranked = rank_folds(
        cache,
        (fold,),
        heads={"zero-shot": scorer.head},
        device="cpu",
        scorers={"zero-shot": scorer},
        block=7,
        precision="fp32",
        top=3,
    )
    assert list(ranked) == ["zero-shot", f"zero-shot {name}"]
    for direction in ("t2i", "i2t"):
        values = [val.recalls(name, direction, train, parameters) for parameters in load_scoring(name).grid]
        best = load_scoring(name).grid[int(np.argmax(np.round(values, 9)))]
        assert scorer.parameters[direction] == best
        assert scorer.val[direction] == {
            "cosine": pytest.approx(val.recalls("cosine", direction, train, {})),
            name: pytest.approx(max(values)),
        }
        for of_name, scoring in (("zero-shot", "cosine"), (f"zero-shot {name}", name)):
            (ranks,) = ranked[of_name][direction]
            np.testing.assert_array_equal(ranks.ranks, test.ranks(scoring, direction, train, best))
            assert ranks.images is not None
            best_scores = np.sort(test.scores(scoring, direction, train, best), axis=1)[:, :-4:-1]
            there = np.take_along_axis(test.scores(scoring, direction, train, best), ranks.top, axis=1)
            np.testing.assert_allclose(there, best_scores, rtol=0, atol=1e-6)


@pytest.mark.ci
def test_some_queries_are_corrected_by_the_dynamic_softmax_and_some_are_not(tmp_path):
    """So that the test above is one of both kinds of queries."""
    cache = FeatureCache(write_cache(tmp_path / "made.h5", contents(images=200)))
    train, test = Naive(cache, 0), Naive(cache, 2)
    scores = test.scores("cosine", "i2t", train, {})
    bank = train.images @ test.texts.T
    activated = np.isin(scores.argmax(axis=1), bank.argmax(axis=1))
    assert 0 < activated.sum() < len(activated)


def test_choosing_reports_its_progress_and_a_lower_precision_is_that_of_the_bank_too(tmp_path):
    cache = FeatureCache(write_cache(tmp_path / "made.h5", contents(images=200)))
    steps = []
    coarse, fine = chosen(cache, "nnn", precision="bf16", on_progress=steps.append), chosen(cache, "nnn")
    count = len(load_scoring("nnn").grid)
    assert [(step.phase, step.done, step.total) for step in steps] == [
        ("parameters", number, count) for number in range(1, count + 1)
    ]
    blocks = [
        next(scorer.bank.embedded(scorer.head, "image", device="cpu", precision=precision))
        for scorer, precision in ((coarse, "bf16"), (fine, "fp32"))
    ]
    assert (blocks[0] == blocks[0].bfloat16().float()).all()
    assert not (blocks[1] == blocks[0]).all()


@pytest.mark.parametrize("name", SCORINGS)
def test_a_gallery_of_one_item_and_a_bank_of_one_image(tmp_path, name):
    made = contents(images=3, image_splits=np.array([0, 1, 2], dtype=np.uint8))
    cache = FeatureCache(write_cache(tmp_path / "made.h5", made))
    scorer = chosen(cache, name)
    (fold,) = split_protocol(cache, split="test").folds
    gallery = Gallery.read(cache, fold)
    embeddings = gallery.embed(scorer.head, device="cpu")
    settings = {"block": 512, "precision": "fp32", "top": 0}
    ranks = scorer.rank(gallery, embeddings, cosine=gallery.rank_embeddings(embeddings, **settings), **settings)
    assert ranks["t2i"].ranks.tolist() == [1] * len(fold.text_rows)
    assert ranks["i2t"].ranks.tolist() == list(range(1, len(fold.text_rows) + 1))
    assert scorer.parameters == dict.fromkeys(("t2i", "i2t"), load_scoring(name).grid[0])
