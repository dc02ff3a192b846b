"""The conventions of the reference implementation, which the published figures of its kind of head were made by.

Its formulas, written out as plain loops: every image has its first five captions; R@K is a hit rate; mAP@K divides the
sum of precisions by the matching items found within the first K, and is 0 where none was.
"""

from statistics import fmean

import numpy as np
import pytest
import torch

from clipret.retrieval.metrics import per_query, summarise
from clipret.retrieval.ties import TIE_TOLERANCE
from tests.helpers.ranked import rank_captions

CASES = 50
CAPTIONS = 5
CUTS = (1, 5, 10)


def unit(rows):
    return torch.nn.functional.normalize(torch.tensor(rows, dtype=torch.float32), dim=1)


def make_case(seed):
    """Embeddings of images and of their first five captions, and each caption's image; more captions were there."""
    generator = np.random.default_rng(seed)
    count = int(generator.integers(3, 40))
    images = generator.normal(size=(count, 16))
    owners = generator.permutation(np.repeat(np.arange(count), generator.integers(5, 8, size=count)))
    texts = images[owners] + generator.uniform(0.5, 3) * generator.normal(size=(len(owners), 16))
    kept, taken = [], [0] * count
    for row, owner in enumerate(owners):
        if taken[owner] < CAPTIONS:
            kept.append(row)
            taken[owner] += 1
    return unit(images), unit(texts[kept]), owners[kept]


def reference_metrics(scores, matching, k):
    """R@K and mAP@K of a score matrix (queries, gallery), by loops over the first K of each query."""
    recalls, precisions = [], []
    for row, own in zip(scores, matching, strict=True):
        best = sorted(range(len(row)), key=lambda item: -row[item])[:k]
        hits, total = 0, 0.0
        for place, item in enumerate(best, start=1):
            if own[item]:
                hits += 1
                total += hits / place
        recalls.append(1.0 if hits > 0 else 0.0)
        precisions.append(total / hits if hits > 0 else 0.0)
    return {f"R@{k}": fmean(recalls), f"mAP_hits@{k}": fmean(precisions)}


def measure_both(seed):
    """(ours, the reference's) metrics by direction."""
    images, texts, owners = make_case(seed)
    scores = (texts.double() @ images.double().T).numpy()
    matching = owners[:, None] == np.arange(len(images))
    # Its sort has no rule for ties; with what matches lowered by our tolerance it has ours.
    scores = scores - TIE_TOLERANCE * matching
    sides = {"t2i": (scores, matching), "i2t": (scores.T, matching.T)}
    expected = {direction: {} for direction in sides}
    for direction, side in sides.items():
        for k in CUTS:
            expected[direction] |= reference_metrics(*side, k)
    ranks = rank_captions(images, texts, caption_images=owners)
    return {
        direction: summarise(ranked, k=CUTS, families=("R", "mAP_hits")) for direction, ranked in ranks.items()
    }, expected


@pytest.fixture(scope="module")
def measured():
    return [measure_both(seed) for seed in range(CASES)]


@pytest.mark.parametrize("k", CUTS)
@pytest.mark.parametrize("name", ["R", "mAP_hits"])
@pytest.mark.parametrize("direction", ["t2i", "i2t"])
def test_both_metrics_equal_the_references_formulas(measured, direction, name, k):
    ranked, expected = ([side[direction][f"{name}@{k}"] for side in sides] for sides in zip(*measured, strict=True))
    np.testing.assert_allclose(ranked, expected, rtol=0, atol=1e-12)
    assert 0.1 < fmean(ranked) < 0.99


def test_at_one_its_map_is_recall(measured):
    for ours, _ in measured:
        for metrics in ours.values():
            assert metrics["mAP_hits@1"] == pytest.approx(metrics["R@1"], abs=1e-12)


def test_with_one_matching_item_its_map_grows_with_k(measured):
    """t2i: there the divisor is 1 or the value is 0."""
    for ours, _ in measured:
        assert ours["t2i"]["mAP_hits@1"] <= ours["t2i"]["mAP_hits@5"] <= ours["t2i"]["mAP_hits@10"]


def test_with_five_matching_items_its_map_falls_from_5_to_10_as_in_the_published_tables(measured):
    """i2t: what is found between 6 and 10 adds a low precision to the sum and one to the divisor."""
    large = [
        ours["i2t"] for (ours, _), seed in zip(measured, range(CASES), strict=True) if len(make_case(seed)[0]) >= 10
    ]
    assert len(large) > 20
    fallen = [metrics["mAP_hits@10"] < metrics["mAP_hits@5"] for metrics in large]
    assert sum(fallen) / len(fallen) > 0.8
    assert fmean(metrics["mAP_hits@10"] for metrics in large) < fmean(metrics["mAP_hits@5"] for metrics in large)
    # This is due to the divisor: recall grew.
    assert fmean(metrics["R@10"] for metrics in large) > fmean(metrics["R@5"] for metrics in large)


def test_a_late_find_lowers_its_map_and_not_ours():
    """One query by hand: matching items at 1 and 6."""
    images = torch.eye(7)
    texts = torch.tensor([[0.9 - 0.1 * place, *([0.0] * 6)] for place in range(7)])
    owners = np.array([0, 1, 2, 3, 4, 0, 5])
    ranks = rank_captions(images, texts, caption_images=owners)["i2t"]
    assert ranks.ranks[: ranks.offsets[1]].tolist() == [1, 6]
    late = (1 + 2 / 6) / 2
    expected = {"mAP@5": 1 / 2, "mAP@10": late, "mAP_hits@5": 1.0, "mAP_hits@10": late}
    ranked = per_query(ranks, k=(5, 10), families=("mAP", "mAP_hits"))
    assert {name: values[0] for name, values in ranked.items()} == pytest.approx(expected, abs=1e-12)
