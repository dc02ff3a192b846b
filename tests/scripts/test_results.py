"""The tables of results: shares of the ceiling's gain, and the tables of a small test bed."""

import json
import re

import numpy as np
import pytest

from clipret.statistics.intervals import Evidence, tabulate
from tests.helpers.ranked import random_head
from tests.scripts.test_fine_tuning import bed_folder  # noqa: F401


@pytest.fixture
def results(script):
    return script("results")


def evidence_of(*spreads, images=400):
    """Heads with ranks from 1 to a spread, of one caption an image."""
    counts = np.full(images, 1)
    heads = [
        random_head(np.random.default_rng(number), counts=counts, spread=spread)
        for number, spread in enumerate(spreads)
    ]
    return Evidence(tabulate(heads, k=(1, 5, 10), families=("R",)), ((None, "rsum"),), k=(1, 5, 10))


def share_by_images(evidence, heads, zero, whole, *, picked):
    """The share over some images, each as often as it was picked."""
    parts = []
    for group in (heads, zero, whole):
        mixture = np.zeros(len(evidence.points))
        mixture[list(group)] = 1 / len(group)
        parts.append(evidence.shares(mixture)[picked, 0].sum())
    return (parts[0] - parts[1]) / (parts[2] - parts[1])


def test_of_one_head_the_share_and_its_interval_are_those_of_draws_of_images(results):
    evidence = evidence_of(60, 35, 20)
    share, low, high = results.share_of_gain(evidence, heads=(1,), zero=(0,), whole=(2,))
    points = evidence.points[:, 0]
    assert share == pytest.approx((points[1] - points[0]) / (points[2] - points[0]))
    generator = np.random.default_rng(0)
    drawn = [share_by_images(evidence, (1,), (0,), (2,), picked=generator.integers(0, 400, 400)) for _ in range(2000)]
    assert (low, high) == pytest.approx(np.quantile(drawn, [0.025, 0.975]), abs=0.02)
    assert high - low > 0.1


def test_seeds_that_differ_widen_the_interval(results):
    evidence = evidence_of(60, 35, 20, 25, 50)
    _, low, high = results.share_of_gain(evidence, heads=(1, 3, 4), zero=(0,), whole=(2,))
    _, lower, higher = results.share_of_gain(evidence, heads=(1,), zero=(0,), whole=(2,))
    assert high - low > 2 * (higher - lower)


@pytest.mark.parametrize("whole", [0, 2])
def test_without_a_gain_of_the_whole_there_is_no_share(results, whole):
    evidence = evidence_of(40, 20, 40)
    assert np.isnan(results.share_of_gain(evidence, heads=(1,), zero=(0,), whole=(whole,))).all()


@pytest.mark.ci
def test_a_test_bed_gets_its_tables_and_nothing_is_trained_twice(results, script, bed_folder, monkeypatch):  # noqa: F811
    monkeypatch.setattr(results, "grid_of", lambda name: [script("fine_tuning").Setting("infonce", 1e-3, 1, 3)])
    bed = results._Bed("small", folder=bed_folder, seeds=2)
    rows = ["linear-margin", "cca", "strong", "soup", "block"]
    text = bed.tables(rows)
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert [line.count("|") for line in lines[:9]] == [7] * 9
    heads, scorings = lines[2:9], lines[9:]
    assert heads[0].startswith("| zero-shot |")
    assert heads[-1].startswith("| fine-tuning the whole encoder |")
    measured = json.loads((bed_folder / "results" / "small" / "zero-shot.json").read_text())
    assert f"| {measured['rsum']['zero-shot']:.3f} [" in heads[0]
    assert [line.split("|")[1].strip() for line in scorings[2:]] == [f"`--scoring {n}`" for n in results.SCORINGS]
    assert all(re.search(r"[+-]\d\.\d{3} \[", line) for line in scorings[2:])

    def fail(*arguments, **settings):
        raise AssertionError

    for name in ("train", "sweep", "evaluate"):
        monkeypatch.setattr(results, name, fail)
    assert bed.tables(rows) == text
