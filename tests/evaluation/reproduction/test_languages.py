"""Rows of captions in a language, and of the mean over languages, against plain loops."""

import numpy as np
import pytest

from clipret import FeatureCache
from clipret.config.reproduction import ReproduceConfig
from clipret.evaluation.reproduction import languages, matching
from clipret.evaluation.reproduction.languages import caption_languages, in_languages
from clipret.evaluation.reproduction.stage import reproduce
from clipret.protocols.protocol import split_protocol
from tests.helpers.published_caches import ROWS, changed, publish_rows, settings, write

TAGS = ("de:0", "de:1", "en:0", "ja:0")


@pytest.fixture
def multilingual(tmp_path):
    """Twelve test images, each with two German captions, an English and a Japanese one."""
    generator = np.random.default_rng(0)
    owners = np.repeat(np.arange(12), len(TAGS))
    images = generator.normal(size=(12, 8))
    texts = images[owners] + 1.5 * generator.normal(size=(len(owners), 8))
    ids = [f"{tag}-{owner}" for owner in range(12) for tag in TAGS]
    path = tmp_path / "xtd10.h5"
    splits = np.full(12, 2)
    return write(path, images, texts, owners=owners, splits=splits, caption_ids=ids, **settings("xtd10"))


@pytest.fixture
def known_protocol(monkeypatch):
    """The protocol of the rows: all images, captions of all languages."""
    monkeypatch.setattr(matching, "PROTOCOLS", ("xtd10",))
    monkeypatch.setattr(matching, "make_protocol", lambda cache, name: split_protocol(cache, split="test"))


def recalls(cache, rows):
    """Recall at 1, 5 and 10 of captions among all images, in percent, by a loop."""
    images = cache.image_features[:] / np.linalg.norm(cache.image_features[:], axis=1, keepdims=True)
    ranks = []
    for row in rows:
        scores = images @ cache.text_features[row]
        ranks.append(int(np.sum(scores > scores[cache.caption_images[row]])))
    return {f"R@{k}": 100 * float(np.mean(np.array(ranks) < k)) for k in (1, 5, 10)}


@pytest.mark.parametrize(
    ("language", "first", "tags"),
    [("de", False, ["de:0", "de:1"]), ("de", True, ["de:0"]), ("ja", False, ["ja:0"])],
)
def test_a_row_is_of_the_captions_in_its_language(multilingual, known_protocol, monkeypatch, language, first, tags):
    cache = FeatureCache(multilingual)
    rows = [row for row, name in enumerate(cache.caption_ids) if name.partition("-")[0] in tags]
    expected = recalls(cache, rows)
    row = ROWS["open_clip multilingual ViT-B/32 zero-shot, xtd10 de"]
    figures = {"i2t": {"R@10": 100.0}, "t2i": expected}
    publish_rows(monkeypatch, changed(row, figures, language=language, first=first))
    report = reproduce(ReproduceConfig(cache=multilingual, tolerance=1e-6))
    ours = {figure["metric"]: figure["ours"] for figure in report["rows"][0]["figures"] if figure["direction"] == "t2i"}
    assert ours == pytest.approx(expected)
    assert list(report["protocols"]) == [f"xtd10 {language}"]
    assert report["protocols"][f"xtd10 {language}"]["captions"] == len(rows) == 12 * len(tags)


def test_the_mean_is_over_the_languages_whatever_captions_they_have(multilingual, known_protocol, monkeypatch):
    cache = FeatureCache(multilingual)
    by_language = [
        recalls(cache, [row for row, name in enumerate(cache.caption_ids) if name.startswith(language)])
        for language in ("de", "en", "ja")
    ]
    expected = {name: np.mean([figures[name] for figures in by_language]) for name in by_language[0]}
    monkeypatch.setattr(matching, "published_languages", lambda dataset: ("de", "en", "ja"))
    row = ROWS["open_clip multilingual ViT-B/32 zero-shot, xtd10 mean"]
    publish_rows(monkeypatch, changed(row, {"i2t": {"R@10": 100.0}, "t2i": expected}))
    report = reproduce(ReproduceConfig(cache=multilingual, tolerance=100))
    ours = {figure["metric"]: figure["ours"] for figure in report["rows"][0]["figures"] if figure["direction"] == "t2i"}
    assert ours == pytest.approx(expected)
    assert report["protocols"]["xtd10 mean"]["folds"] == 3


def test_a_language_without_captions_is_said(multilingual, known_protocol, monkeypatch):
    rows = [ROWS[f"open_clip multilingual ViT-B/32 zero-shot, xtd10 {language}"] for language in ("de", "ko", "mean")]
    publish_rows(monkeypatch, *rows)
    report = reproduce(ReproduceConfig(cache=multilingual, tolerance=100))
    assert [row["name"] for row in report["rows"]] == [rows[0].name]
    assert [other["reason"] for other in report["unmatched"]] == [
        "the cache has no captions in language 'ko'",
        "the cache has no captions in language 'es'",
    ]


def test_ids_without_a_language_have_none(multilingual, tmp_path):
    cache = FeatureCache(multilingual)
    assert set(caption_languages(cache)) == {"de", "en", "ja"}
    protocol = split_protocol(cache, split="test")
    nothing = in_languages(protocol, ["de"], of_captions=np.full(len(cache.caption_ids), ""), first=False)
    assert nothing == "the cache has no captions in language 'de'"
    assert languages.in_languages(protocol, [], of_captions=caption_languages(cache), first=False).folds == ()
