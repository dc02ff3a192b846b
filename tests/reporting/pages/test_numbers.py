"""Every number in a report is that of metrics.json, failures.json or history.csv, or follows from them."""

import csv
import html
import json
import re

import numpy as np
import pytest

from clipret import EvalConfig, FeatureCache, evaluate, load_head, zero_shot
from clipret.evaluation.findings.mixing import WEIGHTS
from clipret.evaluation.findings.recall import CUTS
from tests.helpers.tables import Tables

HEADS = ("zero-shot", "trained")
# The ends of the axis of drawings, in their own units.
_TOP, _BOTTOM, _LEFT, _RIGHT = 14, 236, 62, 446


@pytest.fixture(scope="module")
def page(reported):
    """The page in parts: heading -> its HTML."""
    _, text, _ = reported
    sections = re.findall(r"<section.*?<h2[^>]*>(.*?)</h2>(.*?)</section>", text, re.S)
    return {html.unescape(title): content for title, content in sections}


@pytest.fixture(scope="module")
def files(reported):
    run, _, _ = reported
    with (run / "history.csv").open() as file:
        history = [
            {name: float(value) if value else None for name, value in row.items()} for row in csv.DictReader(file)
        ]
    return {"history": history, **{name: json.loads((run / f"{name}.json").read_text()) for name in
            ("metrics", "failures", "result", "config")}}  # fmt: skip


def lines(content, title):
    """The points of every line of the drawing of this title, from 0 to 1 in both directions."""
    drawing = re.search(rf'<svg[^>]*aria-label="{re.escape(title)}">.*?</svg>', content, re.S)[0]
    return [points(path) for path in re.findall(r'<path class="line c\d" d="M([^"]+)"', drawing)]


def points(path):
    """Places of a path of straight lines."""
    places = np.array([list(map(float, point.split(","))) for point in path.split("L")])
    return np.stack([(places[:, 0] - _LEFT) / (_RIGHT - _LEFT), (_BOTTOM - places[:, 1]) / (_BOTTOM - _TOP)], axis=1)


def assert_drawn(content, title, *, x, values):
    """Every line is that of its values, whose smallest and largest are the ends of the axis."""
    low, high = min(map(min, values)), max(map(max, values))
    drawn = lines(content, title)
    assert len(drawn) == len(values)
    for places, of_line in zip(drawn, values, strict=True):
        np.testing.assert_allclose(places[:, 0], (np.array(x) - min(x)) / (max(x) - min(x)), atol=0.002)
        np.testing.assert_allclose(places[:, 1], (np.array(of_line) - low) / (high - low), atol=0.002)


def test_every_figure_of_eval(page, files):
    metrics, rows = files["metrics"], Tables(page["Figures"]).rows
    scales, expected = {"median rank": 1}, [["", *HEADS, "gain"]]

    def row(label, pick, *, scale, digits, ends):
        values = [pick(metrics["results"][head], head) for head in HEADS]
        cells = [f"{scale * value:.{digits}f}" for value in values] + [f"{scale * (values[1] - values[0]):+.{digits}f}"]
        for place, interval in enumerate(ends):
            if interval:
                low, high = (f"{round(scale * end, 2 if digits == 3 else 1) + 0.0:.{2 if digits == 3 else 1}f}"
                             for end in interval)  # fmt: skip
                cells[place] += f" [{low}, {high}]"
        return [label, *cells]

    intervals = metrics["intervals"]
    for direction in ("t2i", "i2t"):
        expected.append([direction, "", "", ""])
        for label in ("R@1", "R@5", "R@10", "mAP@10", "MRR", "median rank"):
            name = label.replace(" ", "_")
            ends = [intervals["heads"][head][direction][name] for head in HEADS] + [intervals["gain"][direction][name]]
            of_name = {"scale": scales.get(label, 100), "digits": 1, "ends": ends}
            expected.append(row(label, lambda head, _, d=direction, n=name: head[d][n], **of_name))
    ends = [intervals["heads"][head]["rsum"] for head in HEADS] + [intervals["gain"]["rsum"]]
    expected.append(row("rsum", lambda _, head: metrics["rsum"][head], scale=1, digits=3, ends=ends))
    assert [[cell.strip() for cell in row] for row in rows] == expected
    protocol = metrics["protocol"]
    counts = f"{protocol['captions']:,} captions among {protocol['images']:,} images"
    assert counts in page["Figures"]


def test_every_curve_of_the_training(page, files):
    content, history = page["Training"], files["history"]
    for title, names in (
        ("Loss by epoch", ["loss"]),
        ("Validation rsum by epoch", ["val_rsum"]),
        ("Validation R@1 by epoch", ["val_t2i_R@1", "val_i2t_R@1"]),
        ("Learning rate by epoch", ["lr"]),
    ):
        rows = [row for row in history if row[names[0]] is not None]
        values = [[row[name] for row in rows] for name in names]
        if len({value for line in values for value in line}) > 1:
            assert_drawn(content, title, x=[row["epoch"] for row in rows], values=values)
    assert content.count(f">kept: {files['result']['kept_epoch']}<") == 4


def test_the_curve_of_wise_ft(page, files, searchable, tmp_path):
    title = "Between the untrained head and the trained one"
    config = EvalConfig(head=searchable.run, split="val", wise_ft=WEIGHTS, out=tmp_path / "m.json")
    measured = evaluate(config)
    names = [f"wise-ft {weight:g}" for weight in WEIGHTS]
    sums = [measured["rsum"][name] for name in names]
    assert_drawn(page[title], "val: rsum by the weight of the trained head", x=WEIGHTS, values=[sums])
    recalls = [[measured["results"][name][side]["R@1"] for name in names] for side in ("t2i", "i2t")]
    assert_drawn(page[title], "val: R@1 by the weight of the trained head", x=WEIGHTS, values=recalls)
    assert f"measured on the {measured['protocol']['images']:,} images of val" in page[title]
    assert f"The best rsum, {max(sums):.3f}, is at" in page[title]
    assert sums[-1] == pytest.approx(files["result"]["val_rsum"])


def test_recall_and_rank_changes(page, files):
    content, metrics = page["Recall and ranks"], files["metrics"]
    for direction in ("t2i", "i2t"):
        drawn = lines(content, f"{direction}: R@K, with 95 % intervals over images")
        known = {head: {k: metrics["results"][head][direction][f"R@{k}"] for k in (1, 5, 10)} for head in HEADS}
        # The axis ends at 1, at the lower end of some interval that metrics.json need not have.
        first, second = known["zero-shot"][1], known["zero-shot"][10]
        heights = [drawn[0][CUTS.index(k), 1] for k in (1, 10)]
        scale = (heights[1] - heights[0]) / (second - first)
        for places, head in zip(drawn, HEADS, strict=True):
            np.testing.assert_allclose(
                [places[CUTS.index(k), 1] for k in (1, 5, 10)],
                [1 - scale * (1 - value) for value in known[head].values()],
                atol=0.003,
            )
        changed = files["failures"]["directions"][direction]["changed"]
        said = f"{changed['improved']:,} better, {changed['worsened']:,} worse, {changed['same']:,} the same"
        assert content.count(said) == 2
        title = f"{direction}: rank of the first match, zero-shot against trained"
        drawing = re.search(rf'aria-label="{title}">.*?</svg>', content, re.S)[0]
        cells = re.findall(r'class="dot c(\d)"[^>]*><title>[\d,]+ to [\d,]+: ([\d,]+)<', drawing)
        queries = files["failures"]["directions"][direction]["queries"]
        assert sum(int(count.replace(",", "")) for _, count in cells) == queries


def test_queries_won_lost_and_worst(page, files):
    parts = re.split(r"<h3>", page["Queries"])[1:]
    for direction, part in zip(("t2i", "i2t"), parts, strict=True):
        failures = files["failures"]["directions"][direction]
        listed = {
            "Won": failures["changed"]["most_improved"],
            "Lost": failures["changed"]["most_worsened"],
            "Worst": failures["worst"],
        }
        for name, queries in listed.items():
            content = re.search(rf"<details[^>]*><summary>{name}.*?</details>", part, re.S)[0]
            cards = re.findall(r"<article.*?</article>", content, re.S)
            assert f"({len(cards)} shown)" in content
            assert len(cards) == min(8, len(queries))
            ranks = [
                tuple(map(int, re.search(r"rank: zero-shot ([\d,]+), trained ([\d,]+)<", card).groups()))
                for card in cards
            ]
            expected = [tuple(query["ranks"][head] for head in HEADS) for query in queries[: len(cards)]]
            assert ranks == expected
            for card, query, (_, rank) in zip(cards, queries, ranks, strict=False):
                assert html.escape(query["caption"], quote=True) in card
                best = re.findall(r"<li[^>]*>", card.split(">trained<")[1])
                scores = [
                    float(score) for score in re.findall(r"(-?\d\.\d{3})(?=</span>|</li>)", card.split(">trained<")[1])
                ]
                assert scores == sorted(scores, reverse=True)
                # Of a tie the match has the worst rank; otherwise it stands at its rank.
                if rank <= len(best) and len(set(scores)) == len(scores):
                    assert 'class="matching"' in best[rank - 1]


def test_hubs(page, files):
    failures, rows = files["failures"], Tables(page["Hubs"]).rows
    expected = []
    for direction in ("t2i", "i2t"):
        hubs = failures["directions"][direction]["hubs"]
        expected.append(["", *HEADS])
        for label, name, form in (
            ("skewness of N_10", "skewness", ".2f"),
            ("in no top 10", "never_retrieved_share", ".1%"),
            ("share of the top slots that the most frequent 1 % take", "top_share", ".1%"),
        ):
            cells = [f"{hubs[head][name]:{form}}".replace("-0.00", "0.00") for head in HEADS]
            expected.append([label, *cells])
    assert rows == expected
    for number, direction in enumerate(("t2i", "i2t")):
        lists = re.findall(r"<ul.*?</ul>", page["Hubs"], re.S)
        largest = failures["directions"][direction]["hubs"]["trained"]["largest"][:10]
        for hub in largest:
            counts = ", ".join(f"{head} {hub['counts'][head]:,}" for head in HEADS)
            assert html.escape(f"{hub['caption']}: {counts}") in lists[number]
        assert lists[number].count("<li>") == len(largest)


def test_where(page, files, searchable):
    expected = []
    for direction in ("t2i", "i2t"):
        part = files["failures"]["directions"][direction]
        expected.append(["", "queries", *HEADS, "gain"])
        groups = [("all", part["queries"], part["overall"])]
        for name, label in (("caption_length", "words of a caption"), ("positives", "matching items")):
            bins = part["breakdown"][name]["bins"]
            for group in bins if len(bins) > 1 else ():
                low, high = f"{group['low']:.3g}", f"{group['high']:.3g}"
                span = low if low == high else f"{low} to {high}"
                groups.append((f"{label}: {span}", group["queries"], group["results"]))
        for label, queries, results in groups:
            before, after = (100 * results[head]["R@1"] for head in HEADS)
            expected.append([label, f"{queries:,}", f"{before:.1f}", f"{after:.1f}", f"{after - before:+.1f}"])
    rows = [row for row in Tables(page["Where"]).rows if not row[0].startswith("first word")]
    assert rows == expected
    assert "By the objects" not in page["Where"]


def test_similarities_are_those_of_the_heads(page, searchable):
    cache = FeatureCache(searchable.cache)
    heads = {"zero-shot": zero_shot(searchable.cache, device="cpu").head, "trained": load_head(searchable.run)}
    rows, gaps = Tables(page["Similarities"]).rows, {}
    for name, head in heads.items():
        sides = (
            head.embed_images(cache.features("image", split="test")),
            head.embed_texts(cache.features("text", split="test")),
        )
        gaps[name] = np.linalg.norm(np.subtract(*(side.mean(axis=0) for side in sides)))
    assert rows == [["", "distance"], *([name, f"{gap:.3f}"] for name, gap in gaps.items())]


def test_how_to_repeat_it(page, files):
    metrics, versions = files["metrics"], files["config"]["versions"]
    rows = Tables(page["How to repeat it"]).rows
    assert [row for row in rows if any(row)] == [
        ["cache", metrics["cache"]["fingerprint"]],
        ["queries and items", metrics["protocol"]["digest"]],
        *([name, version] for name, version in versions.items()),
    ]


def test_no_part_of_the_page_is_without_a_test_above(page):
    assert set(page) == {
        *("Figures", "Training", "Between the untrained head and the trained one", "Recall and ranks", "Queries"),
        *("Similarities", "Hubs", "Where", "How to repeat it"),
    }
