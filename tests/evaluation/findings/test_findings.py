"""What a report says beyond the figures, against plain computations."""

from pathlib import Path

import numpy as np
import pytest

from clipret import EvalConfig, ReportConfig, SweepConfig, evaluate, report, sweep
from clipret.cache import FeatureCache
from clipret.evaluation.findings.galleries import find_galleries, find_unlabelled, first_words
from clipret.evaluation.findings.published import published_beside
from clipret.evaluation.findings.ranked import Ranked
from clipret.evaluation.findings.recall import CUTS, rank_changes, recall_curves
from clipret.evaluation.findings.similarities import describe_similarities
from clipret.evaluation.findings.sweep import find_effects, find_front
from clipret.evaluation.inputs import open_inputs
from clipret.protocols.protocol import split_protocol
from clipret.reporting.pages.parts.published import PART
from clipret.runs import read_result
from tests.helpers.published_caches import FLICKR, write_flickr


@pytest.fixture(scope="module")
def ranked(searchable):
    inputs = open_inputs(EvalConfig(cache=searchable.cache, head=searchable.run))
    protocol = split_protocol(inputs.cache, split="train")
    return Ranked.of(inputs.cache, protocol, heads=inputs.heads, device="cpu")


def cosines(ranked, head):
    sides = ranked.embeddings[head]
    return sides["text"].astype(np.float64) @ sides["image"].astype(np.float64).T


def test_recall_is_that_of_eval_with_its_intervals(ranked, searchable, tmp_path):
    config = EvalConfig(
        cache=searchable.cache, head=searchable.run, split="train", allow_leak=True, out=tmp_path / "m.json"
    )
    metrics, curves = evaluate(config), recall_curves(ranked.of_folds)
    assert curves["k"] == list(CUTS)
    for head in ("zero-shot", "trained"):
        for direction in ("t2i", "i2t"):
            of = curves["heads"][head][direction]
            for k in (1, 5, 10):
                place = CUTS.index(k)
                assert of["values"][place] == metrics["results"][head][direction][f"R@{k}"]
                ends = metrics["intervals"]["heads"][head][direction][f"R@{k}"]
                assert [of["low"][place], of["high"][place]] == pytest.approx(ends)
            assert of["values"] == sorted(of["values"])


def test_cells_hold_every_query_once(ranked):
    for direction in ("t2i", "i2t"):
        changes = rank_changes(ranked, direction)
        queries = ranked.ranks("trained", direction).queries
        assert sum(count for *_, count in changes["cells"]) == queries
        assert changes["won"] + changes["lost"] + changes["same"] == queries
        assert changes["gallery"] == ranked.ranks("trained", direction).gallery


def test_galleries_are_the_largest_changes(ranked):
    before, after = (ranked.ranks(head, "t2i").first for head in ("zero-shot", "trained"))
    galleries = find_galleries(ranked, "t2i", most=5)
    ratios = sorted(after / before)
    assert [one["ranks"]["trained"] / one["ranks"]["zero-shot"] for one in galleries["won"]] == pytest.approx(
        [ratio for ratio in ratios[:5] if ratio < 1]
    )
    assert [one["ranks"]["trained"] for one in galleries["worst"]] == sorted(after, reverse=True)[:5]
    scores = cosines(ranked, "trained")
    for one in galleries["worst"]:
        place = ranked.fold.text_rows.tolist().index(one["query"]["row"])
        best = np.sort(scores[place])[::-1][:5]
        assert [item["score"] for item in one["best"]["trained"]] == pytest.approx(best, abs=1e-5)
        assert one["expected"][0]["row"] == ranked.cache.caption_images[one["query"]["row"]]


def test_unlabelled_matches_have_the_same_caption_or_nearly_the_same_image(ranked):
    import re

    def plain(caption):
        return " ".join(re.findall(r"\w+", caption.lower()))

    captions = [plain(ranked.cache.captions[row]) for row in ranked.fold.text_rows]
    scores, images = cosines(ranked, "trained"), ranked.embeddings["zero-shot"]["image"].astype(np.float64)
    expected = []
    for place, own in enumerate(ranked.fold.caption_images.tolist()):
        best = int(np.lexsort((np.arange(scores.shape[1]), -scores[place].astype(np.float32)))[0])
        if best == own:
            continue
        same = any(captions[other] == captions[place] for other in np.flatnonzero(ranked.fold.caption_images == best))
        if same or images[best] @ images[own] >= 0.98:
            expected.append(place)
    assert find_unlabelled(ranked, "t2i") == expected
    galleries = find_galleries(ranked, "t2i", most=3)
    assert galleries["unlabelled_count"] == len(expected)
    assert galleries["r1_counted"] == pytest.approx(galleries["r1"] + len(expected) / len(captions))


def test_histograms_and_gap_are_those_of_all_pairs(ranked):
    for head, of in describe_similarities(ranked).items():
        scores, sides = cosines(ranked, head), ranked.embeddings[head]
        matches = np.zeros(scores.shape, dtype=bool)
        matches[np.arange(len(scores)), ranked.fold.caption_images] = True
        for name, values in (("matching", scores[matches]), ("other", scores[~matches])):
            counts = np.histogram(values, bins=of["edges"])[0]
            # A cosine at an edge may round to either side.
            assert np.abs(np.array(of[name]) - counts / counts.sum()).sum() < 0.01
        gap = np.linalg.norm(sides["image"].mean(axis=0) - sides["text"].mean(axis=0))
        assert of["gap"] == pytest.approx(gap, rel=1e-5)
        assert sum(part["queries"] for part in of["calibration"]) == len(scores)
        right = sum(part["queries"] * part["right"] for part in of["calibration"])
        assert right == pytest.approx(np.sum(ranked.ranks(head, "t2i").first == 1))


def test_first_words_are_groups_of_queries(ranked):
    for group in first_words(ranked, "t2i"):
        rows = [
            place
            for place, row in enumerate(ranked.fold.text_rows)
            if ranked.cache.captions[row].lower().split()[0].strip(".,!") == group["word"]
        ]
        assert group["queries"] == len(rows)
        assert group["after"] == pytest.approx(np.mean(ranked.ranks("trained", "t2i").first[rows] == 1))


@pytest.fixture(scope="module")
def swept(searchable, tmp_path_factory):
    """What a sweep of two settings with three seeds returned."""
    asked = {"axes": {"margin": "0,0.2", "lr": "1e-4,1e-3", "epochs": "2"}, "seeds": (0, 1, 2)}
    return sweep(SweepConfig(cache=searchable.cache, runs_dir=tmp_path_factory.mktemp("swept"), **asked))


def test_effects_of_settings_are_means_over_seeds(swept):
    values = {}
    for entry in swept["configurations"]:
        for run, seed in zip(entry["runs"], entry["seeds"], strict=True):
            values[str(entry["settings"]["lr"]), seed, run] = read_result(run)["val_rsum"]
    effects = {(one["setting"], one["value"]): one for one in find_effects(swept)}
    assert {setting for setting, _ in effects} == {"margin", "lr"}
    for lr in ("0.0001", "0.001"):
        of_seeds = [
            np.mean([value for (of, seed, _), value in values.items() if of == lr and seed == number])
            - np.mean([value for (_, seed, _), value in values.items() if seed == number])
            for number in range(3)
        ]
        effect = effects["lr", lr]
        assert effect["effect"] == pytest.approx(np.mean(of_seeds))
        reach = 4.302652729911275 * np.std(of_seeds, ddof=1) / np.sqrt(3)
        assert effect["high"] - effect["effect"] == pytest.approx(reach)
    points = find_front(swept)
    assert len(points) == 12
    best = [(point["t2i"], point["i2t"]) for point in points if point["best"]]
    for point in points:
        own = (point["t2i"], point["i2t"])
        beaten = any(t2i >= own[0] and i2t >= own[1] and (t2i, i2t) != own for t2i, i2t in best)
        assert point["best"] != beaten


def test_a_report_on_a_sweep_has_its_leaderboard_and_its_best_run(swept, tmp_path):
    folder = Path(swept["sweep"])
    result = report(ReportConfig(runs=(folder,), out=tmp_path / "r.html"))
    text = (tmp_path / "r.html").read_text(encoding="utf-8")
    assert len(result["runs"]) == 1
    assert Path(result["runs"][0]).parent == folder
    for heading in (
        "Leaderboard",
        "What the settings do",
        "Both directions",
        "Training over seeds",
        "Figures of the best run",
    ):
        assert heading in text
    names = ", ".join(Path(run).name for run in swept["chosen"]["runs"])
    assert f"{names}: the same settings with other seeds" in text


def test_published_rows_are_those_of_the_model_by_the_protocol(searchable, tmp_path):
    cache = FeatureCache(write_flickr(tmp_path / "flickr.h5", images=1000))
    rows = published_beside(cache, protocol="flickr30k-karpathy-1k")
    assert FLICKR in {row["name"] for row in rows}
    assert {row["model"] for row in rows} == {"ViT-B/32"}
    assert published_beside(cache, protocol="split") == []
    assert published_beside(FeatureCache(searchable.cache), protocol="split") == []
    found = {"published": rows, "metrics": {"results": {"zero-shot": {"t2i": {"R@1": 0.123}, "i2t": {"R@1": 0.456}}}}}
    content = PART.render(found, None)
    assert '<td class="right">12.3</td>' in content
    (row,) = [row for row in rows if row["name"] == FLICKR]
    assert f'<td class="right">{row["figures"]["t2i"]["R@1"]:.1f}</td>' in content
