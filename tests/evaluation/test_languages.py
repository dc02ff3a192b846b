import numpy as np
import pytest

from clipret import EvalConfig, FeatureCache, evaluate
from clipret.errors import UsageError
from clipret.reporting import FORMS, SECTIONS
from tests.conftest import contents, write_cache

LANGUAGES = ("de", "en", "ja")


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """Sixty test images, each with one or two captions in each language but some in the last."""
    generator = np.random.default_rng(7)
    ids, owners = [], []
    for image in range(60):
        for language in LANGUAGES if image % 5 else LANGUAGES[:2]:
            count = int(generator.integers(1, 3))
            ids += [f"{language}:{100 + image}#{place}" for place in range(count)]
            owners += [image] * count
    made = contents(
        caption_ids=ids,
        captions=[f"text {row}" for row in range(len(ids))],
        caption_images=np.array(owners),
        image_splits=np.full(60, 2, dtype=np.uint8),
    )
    made.inputs["dataset"] = "xm3600"
    return write_cache(tmp_path_factory.mktemp("languages") / "xm3600.h5", made)


def naive_recall(cache, language, k):
    """(t2i, i2t) R@K of zero-shot CLIP by plain loops, on captions whose ids begin with the language."""
    unit = lambda rows: rows / np.linalg.norm(rows, axis=1, keepdims=True)  # noqa: E731
    images = unit(cache.image_features.astype(np.float64) @ cache.projections["image/weight"])
    texts = unit(cache.text_features.astype(np.float64) @ cache.projections["text/weight"])
    own = [row for row, name in enumerate(cache.caption_ids) if name.startswith(f"{language}:")]
    owners = cache.caption_images
    t2i = [owners[text] in np.argsort(-(images @ texts[text]))[:k] for text in own]
    i2t = [
        any(owners[text] == image for text in sorted(own, key=lambda row: -(texts[row] @ images[image]))[:k])
        for image in sorted({owners[text] for text in own})
    ]
    return np.mean(t2i), np.mean(i2t)


def test_every_language_is_measured_by_itself_and_the_mean_is_theirs(cache):
    report = evaluate(EvalConfig(cache=cache, zero_shot=True, resamples=0))
    entries = [report, *report["also"]]
    assert [entry["protocol"]["name"] for entry in entries] == [f"xm3600:{language}" for language in LANGUAGES]
    opened = FeatureCache(cache)
    for k in (1, 5):
        naive = [naive_recall(opened, language, k) for language in LANGUAGES]
        measured = [[entry["results"]["zero-shot"][side][f"R@{k}"] for side in ("t2i", "i2t")] for entry in entries]
        np.testing.assert_allclose(measured, naive, rtol=1e-12)
        (mean,) = report["languages"]
        means = [mean["results"]["zero-shot"][side][f"R@{k}"] for side in ("t2i", "i2t")]
        np.testing.assert_allclose(means, np.mean(naive, axis=0), rtol=1e-12)
    assert mean["languages"] == list(LANGUAGES)
    assert mean["rsum"]["zero-shot"] == pytest.approx(np.mean([entry["rsum"]["zero-shot"] for entry in entries]))


def test_images_without_a_caption_in_the_language_stay_in_the_gallery(cache):
    protocol = evaluate(EvalConfig(cache=cache, zero_shot=True, resamples=0, language=("ja",)))["protocol"]
    assert (protocol["images"], protocol["t2i"]["gallery"], protocol["i2t"]["queries"]) == (60, 60, 48)


def test_one_language_is_a_table_of_its_own(cache):
    report = evaluate(EvalConfig(cache=cache, zero_shot=True, resamples=0, language=("de",)))
    assert "also" not in report
    assert "languages" not in report
    (sheet,) = SECTIONS["eval"](report, names=("R@1", "R@5"))
    assert sheet.title == "xm3600 test, made, protocol xm3600:de"
    counts = report["protocol"]["captions"]
    assert report["protocol"]["remarks"] == [
        "60 images where the protocol has 3,600",
        f"de has {counts} captions (published: 8,643)",
    ]


def test_several_languages_are_one_table_with_their_mean(cache):
    report = evaluate(EvalConfig(cache=cache, zero_shot=True, resamples=0, language=("ja", "de", "ja")))
    (sheet,) = SECTIONS["eval"](report, names=("R@1", "R@5", "rsum"))
    assert sheet.title == "xm3600 test, made, protocol xm3600 by language"
    assert [column.name for column in sheet.columns] == ["", "t2i R@1", "i2t R@1"]
    assert [row[0].value for row in sheet.rows] == ["ja", "de", "mean"]
    figures = [[cell.value for cell in row[1:]] for row in sheet.rows]
    np.testing.assert_allclose(figures[2], np.mean(figures[:2], axis=0))
    assert "2 languages, one at a time, among 60 images; the mean is over these" in sheet.notes
    assert "mean" in FORMS["markdown"]((sheet,))


def test_the_split_protocol_has_languages_too(cache):
    report = evaluate(EvalConfig(cache=cache, zero_shot=True, resamples=0, protocol=("split",)))
    assert report["protocol"]["name"] == "split:de"
    assert len(report["also"]) == 2


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"language": ("de", "fr")}, "--language fr: {cache} has de, en, ja."),
        (
            {"language": ("de",), "protocol": ("split-equal-texts",)},
            "--language and --protocol split-equal-texts contradict each other; leave one of them out.",
        ),
    ],
)
def test_a_language_that_cannot_be_measured_is_one_clear_line(cache, settings, message):
    with pytest.raises(UsageError) as caught:
        evaluate(EvalConfig(cache=cache, zero_shot=True, **settings))
    assert str(caught.value) == message.format(cache=cache)


def test_a_cache_of_one_language_has_none_to_choose(cache_path):
    with pytest.raises(UsageError) as caught:
        evaluate(EvalConfig(cache=cache_path, zero_shot=True, language=("de",)))
    assert str(caught.value) == (
        f"--language de: the captions of {cache_path} do not say their languages; expected a cache of xm3600 or xtd10."
    )
