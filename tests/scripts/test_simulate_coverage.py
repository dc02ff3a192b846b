"""How often intervals and tests are right where the truth is known: a few places of scripts/simulate_coverage.py."""

import importlib.util
import json

import numpy as np
import pytest

from tests.helpers import REPOSITORY

SCRIPT = REPOSITORY / "scripts" / "simulate_coverage.py"


@pytest.fixture(scope="module")
def coverage():
    spec = importlib.util.spec_from_file_location("coverage_script", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("images", "rate", "highest"), [(30, 0.01, 1.0), (376, 0.99, 1.0), (100, 0.5, 0.98), (376, 0.1, 0.98)]
)
@pytest.mark.ci
def test_intervals_hold_the_truth_as_often_as_they_say_near_0_and_1_too(coverage, images, rate, highest):
    """Percentiles of draws of images held it in 29 to 54 % at 0.01, and in 6 to 21 % of R@10 at 0.99."""
    simulation = coverage.Simulation(images=images, rate=rate)
    shares = coverage.cover(simulation, sets=250, flips=199, seed=0)
    assert (shares["interval"] >= 0.90).all(), shares
    assert (shares["interval"] <= highest + 1e-9).all(), shares
    assert (shares["gain"] >= 0.90).all(), shares
    assert (shares["false"] <= 0.09).all(), shares
    assert (shares["disagree"] == 0).all(), shares


def percentiles_hold(simulation, *, sets):
    """What intervals did before: percentiles of the figures over draws of images."""
    generator, truth, held = np.random.default_rng(0), simulation.truth(), 0
    for _ in range(sets):
        evidence = simulation.draw(generator, gains=(0.0,))
        drawn = generator.multinomial(evidence.images, np.full(evidence.images, 1 / evidence.images), size=300)
        low, high = np.quantile(drawn @ evidence.shares(np.ones(1)), [0.025, 0.975], axis=0)
        held += (low <= truth) & (truth <= high)
    return held / sets


def test_percentiles_of_draws_would_fail_where_few_queries_are_right_or_wrong(coverage):
    """Five captions an image: the draws keep the number of queries, and weigh what each image has."""
    shares = percentiles_hold(coverage.Simulation(images=376, rate=0.99), sets=60)
    assert shares[2] < 0.7
    assert shares[3] < 0.3
    assert percentiles_hold(coverage.Simulation(images=30, rate=0.01), sets=60)[1] < 0.6


@pytest.mark.ci
@pytest.mark.parametrize(("seeds", "luck"), [(2, 0.0), (2, 0.15), (3, 0.05), (5, 0.15)])
def test_a_mean_over_seeds_holds_the_truth_of_its_settings_and_equal_settings_are_rarely_different(
    coverage, seeds, luck
):
    simulation = coverage.Simulation(images=100, rate=0.5)
    shares = coverage.cover_seeds(simulation, seeds=seeds, luck=luck, sets=150, seed=0)
    assert (shares["interval"] >= 0.91).all(), shares
    for name in ("fixed", "single", "groups"):
        assert (shares[name] <= 0.09).all(), (name, shares)


def test_a_real_gain_over_one_run_is_found_with_five_seeds(coverage):
    """What borrows a spread can still find something."""
    generator, simulation = np.random.default_rng(0), coverage.Simulation(images=376, rate=0.5)
    group, single = coverage.Heads(tuple(range(5))), coverage.Heads((5,))
    evidence = simulation.draw(generator, gains=(*generator.normal(0.5, 0.02, 5), 0.0))
    estimated = coverage.contrast(evidence, group, single, level=0.95)
    assert (estimated.p < 0.01).all()
    assert (estimated.low > 0).all()


def test_the_truth_is_that_of_many_images(coverage):
    simulation = coverage.Simulation(images=40_000, rate=0.1)
    evidence = simulation.draw(np.random.default_rng(0), gains=(0.0, coverage.GAIN))
    for head, gain in enumerate((0.0, coverage.GAIN)):
        assert evidence.points[head] == pytest.approx(simulation.truth(gain=gain), rel=0.03)


def test_the_script_prints_its_tables_and_writes_its_figures(coverage, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(coverage, "OUT", tmp_path / "build" / "coverage.json")
    words = "--sets 4 --flips 99 --images 20 30 --rates 0.5 --seeds 1 2 --lucks 0.05 --seed-images 20"
    monkeypatch.setattr("sys.argv", ["simulate_coverage.py", *words.split()])
    coverage.main()
    out = capsys.readouterr().out
    assert out.count("| images | R@1 | t2i R@1 |") == 3
    assert out.count("| seeds | luck | t2i R@1 |") == 4
    assert "Of these tests, 0 of 56 say otherwise than the interval." in out
    figures = json.loads((tmp_path / "build" / "coverage.json").read_text())
    assert set(figures["metrics"]) == {"20 0.5", "30 0.5"}
    assert set(figures["metrics"]["20 0.5"]["interval"]) == set(coverage.NAMES)
    assert set(figures["seeds"]) == {"1 0.05", "2 0.05"}
