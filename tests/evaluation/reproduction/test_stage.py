import functools
import json
import shutil

import numpy as np
import pytest

from clipret import FeatureCache, evaluate
from clipret.config import EvalConfig
from clipret.config.reproduction import ReproduceConfig
from clipret.errors import HeadError, RunError, UsageError
from clipret.evaluation.reproduction.stage import reproduce
from clipret.protocols.protocol import make_protocol
from clipret.retrieval import gallery as measurement
from tests.helpers.published_caches import (
    FLICKR,
    MEASURED,
    ROWS,
    changed,
    off,
    publish_rows,
    settings,
    trained,
    write,
    write_flickr,
    write_small,
)

LOSSES = {"margin": {"reduction": "mean"}, "cross-entropy": {"loss": "infonce"}}


@pytest.fixture(scope="module")
def flickr(tmp_path_factory):
    return write_flickr(tmp_path_factory.mktemp("flickr") / "flickr30k.h5", images=1000)


@pytest.fixture
def publish(monkeypatch):
    return functools.partial(publish_rows, monkeypatch)


@pytest.fixture
def small(tmp_path):
    return functools.partial(write_small, tmp_path)


def measured_by_evaluate(path, protocol, *, head=None, metrics=("R@1", "R@5", "R@10")):
    config = EvalConfig(
        cache=path, protocol=(protocol,), head=head, zero_shot=head is None, out=path.with_suffix(".json")
    )
    results = evaluate(config)["results"]["trained" if head else "zero-shot"]
    return {direction: {name: 100 * results[direction][name] for name in metrics} for direction in ("i2t", "t2i")}


@pytest.mark.ci
def test_figures_that_are_published_pass(flickr, publish):
    publish(changed(ROWS[FLICKR], MEASURED))
    report = reproduce(ReproduceConfig(cache=flickr))
    (row,) = report["rows"]
    figures = {direction: {} for direction in MEASURED}
    for figure in row["figures"]:
        figures[figure["direction"]][figure["metric"]] = figure["ours"]
        assert figure == {
            "direction": figure["direction"],
            "metric": figure["metric"],
            "ours": pytest.approx(MEASURED[figure["direction"]][figure["metric"]], abs=1e-9),
            "published": MEASURED[figure["direction"]][figure["metric"]],
            "difference": pytest.approx(0, abs=1e-9),
            "within": True,
        }
    assert {direction: set(metrics) for direction, metrics in figures.items()} == {
        direction: set(metrics) for direction, metrics in MEASURED.items()
    }
    assert (row["passed"], row["explanations"], row["name"]) == (True, [], FLICKR)
    assert (report["passed"], report["compared"], report["outside"], report["unmatched"]) == (True, 6, 0, [])
    assert report["protocols"]["flickr30k-karpathy-1k"]["captions"] == 5000
    assert report["protocols"]["flickr30k-karpathy-1k"]["remarks"] == []
    cache = FeatureCache(flickr)
    assert report["cache"] == {
        "path": str(flickr),
        "fingerprint": cache.fingerprint,
        "model": "ViT-B/32",
        "recognised": "ViT-B/32",
        "recognised_by": "weights",
        "dataset": "flickr30k",
        "prompt": "{}",
        "caption_clean": "none",
    }
    assert (report["run"], report["tolerance"]) == (None, 0.5)


@pytest.mark.ci
def test_all_of_karpathys_captions_are_measured_exactly(tmp_path, publish):
    """5,000 images and 25,010 captions, against ranks by a plain product in float64."""
    generator = np.random.default_rng(0)
    owners = np.sort(np.concatenate([np.repeat(np.arange(5000), 5), np.arange(10)]))
    images = generator.normal(size=(5000, 16))
    texts = images[owners] + 1.3 * generator.normal(size=(25_010, 16))
    path = write(
        tmp_path / "coco-karpathy.h5",
        images,
        texts,
        owners=owners,
        splits=np.full(5000, 2),
        **settings("coco-karpathy"),
    )
    unit = [rows.astype(np.float32).astype(np.float64) for rows in (images, texts)]
    unit = [rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in unit]
    t2i, best = [], np.full(5000, -np.inf)
    np.maximum.at(best, owners, np.sum(unit[0][owners] * unit[1], axis=1))
    above = np.zeros(5000)
    for block in np.array_split(np.arange(25_010), 10):
        scores = unit[1][block] @ unit[0].T
        t2i.append(np.sum(scores > scores[np.arange(len(block)), owners[block], None], axis=1))
        # The score of the matching item may be rounded differently here.
        above += np.sum(scores > best + 1e-12, axis=0)
    ranks = {"i2t": above, "t2i": np.concatenate(t2i)}
    expected = {direction: {f"R@{k}": 100 * np.mean(rank < k) for k in (1, 5, 10)} for direction, rank in ranks.items()}
    publish(changed(ROWS["open_clip ViT-B/32 zero-shot, coco-karpathy-5k"], expected))
    report = reproduce(ReproduceConfig(cache=path, tolerance=1e-6))
    assert report["passed"]
    assert 10 < expected["t2i"]["R@1"] < 90
    described = report["protocols"]["coco-karpathy-5k"]
    assert (described["images"], described["captions"], described["remarks"]) == (5000, 25_010, [])


@pytest.mark.ci
def test_exactly_the_tolerance_passes_and_more_does_not(flickr, publish):
    publish(changed(ROWS[FLICKR], off(MEASURED, {("t2i", "R@1"): 0.5})))
    assert reproduce(ReproduceConfig(cache=flickr))["passed"]
    publish(changed(ROWS[FLICKR], off(MEASURED, {("t2i", "R@1"): 0.51})))
    report = reproduce(ReproduceConfig(cache=flickr))
    assert (report["passed"], report["outside"], report["compared"]) == (False, 1, 6)
    assert [figure["metric"] for figure in report["rows"][0]["figures"] if not figure["within"]] == ["R@1"]
    assert reproduce(ReproduceConfig(cache=flickr, tolerance=1))["passed"]


def test_a_protocol_is_measured_once_however_many_rows_are_of_it(flickr, publish, monkeypatch):
    row, calls, reports = changed(ROWS[FLICKR], MEASURED), [], []
    rank = measurement.Gallery.rank_embeddings
    monkeypatch.setattr(
        measurement.Gallery, "rank_embeddings", lambda *words, **named: calls.append(1) or rank(*words, **named)
    )
    mean = {direction: {"nDCG@10": 1.0, "R@1": MEASURED[direction]["R@1"]} for direction in MEASURED}
    publish(row, changed(row, mean, source=ROWS["reference ViT-B/32 zero-shot, coco-val2017"].source))
    report = reproduce(ReproduceConfig(cache=flickr), on_progress=reports.append)
    assert (len(calls), len(report["rows"])) == (1, 2)
    assert [(step.phase, step.done, step.total) for step in reports] == [("protocols", 1, 1)]
    assert [(figure["metric"], figure["within"]) for figure in report["rows"][1]["figures"]] == [
        *(("nDCG@10", False), ("R@1", True)),
        *(("nDCG@10", False), ("R@1", True)),
    ]


def test_of_several_galleries_it_is_the_mean(small, publish):
    path = small("coco-karpathy")
    expected = measured_by_evaluate(path, "coco-karpathy-1k")
    row = changed(ROWS["ECCV Caption ViT-L/14 zero-shot, coco-karpathy-1k"], expected, model="ViT-B/32")
    publish(row)
    report = reproduce(ReproduceConfig(cache=path, tolerance=1e-9))
    assert report["protocols"]["coco-karpathy-1k"]["folds"] == 5
    assert report["passed"]


def test_map_is_divided_as_the_row_says(small, publish):
    """mAP_hits@10 of both directions, by a loop over sorted captions and images."""
    path = small("coco")
    cache = FeatureCache(path)
    (fold,) = make_protocol(cache, "coco-val2017").folds
    unit = [cache.image_features[fold.image_rows], cache.text_features[fold.text_rows]]
    unit = [rows / np.linalg.norm(rows.astype(np.float64), axis=1, keepdims=True) for rows in unit]
    expected = {}
    for direction, asking, gallery in (("i2t", *unit), ("t2i", *unit[::-1])):
        values = []
        for query, scores in enumerate(asking @ gallery.T):
            order = np.argsort(-scores)[:10]
            owners = fold.caption_images[order] if direction == "i2t" else order
            hits = owners == (query if direction == "i2t" else fold.caption_images[query])
            values.append(np.sum(np.cumsum(hits)[hits] / (1 + np.flatnonzero(hits))) / max(1, hits.sum()))
        expected[direction] = {"mAP_hits@10": 100 * np.mean(values)}
    publish(changed(ROWS["reference ViT-B/32 zero-shot, coco-val2017"], expected))
    assert reproduce(ReproduceConfig(cache=path, tolerance=1e-6))["passed"]


@pytest.mark.parametrize("method", LOSSES)
def test_a_runs_head_is_compared_with_the_row_of_its_loss(small, publish, method):
    path = small("coco")
    run = trained(path, **LOSSES[method])
    before, after = (measured_by_evaluate(path, "coco-val2017", head=head) for head in (None, run))
    publish(
        changed(ROWS["reference ViT-B/32 zero-shot, coco-val2017"], before),
        *(changed(ROWS[f"reference ViT-B/32 {loss}, coco-val2017"], after) for loss in LOSSES),
    )
    report = reproduce(ReproduceConfig(cache=path, head=run, tolerance=1e-9))
    assert report["passed"]
    assert report["run"] == str(run)
    assert [row["method"] for row in report["rows"]] == ["zero-shot", method]
    (other,) = report["unmatched"]
    ours, theirs = {"margin": ("margin", "infonce"), "cross-entropy": ("infonce", "margin")}[method]
    assert other["reason"] == f"{run} is of loss {ours} and head linear, the row of loss {theirs} and head linear"
    options = {"margin": "--loss infonce", "cross-entropy": "--reduction mean"}[method]
    assert other["needs"] == f"clipret train --cache {path} {options}"


def test_the_head_file_of_a_run_is_accepted_as_the_run(small):
    path = small("coco")
    run = trained(path)
    shutil.copytree(run, path.parent / "elsewhere", ignore=shutil.ignore_patterns("config.json"))
    by_file = reproduce(ReproduceConfig(cache=path, head=run / "head.safetensors", tolerance=100))
    assert by_file == reproduce(ReproduceConfig(cache=path, head=run, tolerance=100))
    for name, message in (
        ("nowhere", r"there is no head at .*nowhere/head.safetensors; expected"),
        ("elsewhere", r"elsewhere is not a run: it has no config.json"),
    ):
        with pytest.raises(RunError, match=message):
            reproduce(ReproduceConfig(cache=path, head=path.parent / name / "head.safetensors"))


def test_a_head_for_other_weights_is_refused(small):
    path = small("coco")
    run = trained(path)
    other = small("coco", name="other.h5", weights_sha256="ab" * 32)
    with pytest.raises(HeadError, match="the weights of the cache are"):
        reproduce(ReproduceConfig(cache=other, head=run))


def test_the_comparison_is_written_where_it_is_asked_for(small, tmp_path):
    path, out = small("flickr30k"), tmp_path / "here.json"
    report = reproduce(ReproduceConfig(cache=path, out=out))
    assert json.loads(out.read_text()) == report
    with pytest.raises(UsageError) as caught:
        reproduce(ReproduceConfig(cache=path, out=tmp_path / "nowhere" / "here.json"))
    assert str(caught.value) == (
        f"--out is '{tmp_path}/nowhere/here.json', but there is no folder {tmp_path}/nowhere; make it first."
    )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {},
            "reproduce needs a cache; give it with --cache FILE, or see what was published and the cache that each row "
            "needs with --list.",
        ),
        ({"cache": "a.h5", "tolerance": -0.1}, "--tolerance is -0.1; expected a value from 0 to 100."),
        ({"cache": "a.h5", "tolerance": float("nan")}, "--tolerance is nan; expected a value from 0 to 100."),
        ({"cache": "a.h5", "block": 0}, "--block is 0; expected 1 or more."),
        ({"cache": "a.h5", "device": "tpu"}, "--device is 'tpu'; expected one of: auto, cpu, cuda."),
    ],
)
def test_bad_settings_are_refused_when_they_are_made(settings, message):
    with pytest.raises(UsageError) as caught:
        ReproduceConfig(**settings)
    assert str(caught.value) == message
