"""Seeds of the same settings are known as such, and drawn as mean, lowest and highest."""

import csv
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from clipret import ReportConfig, TrainConfig, report, train
from clipret.evaluation.findings.seeds import groups_of_seeds, seed_curves
from clipret.reporting.pages.seeds import TITLE


@pytest.fixture(scope="module")
def seeds(searchable, tmp_path_factory):
    """Folders of three runs of the same settings with seeds 0, 1 and 2."""
    folder = tmp_path_factory.mktemp("seeds")
    config = TrainConfig(cache=searchable.cache, epochs=2, lr=1e-3, runs_dir=folder)
    return [Path(train(replace(config, seed=seed, name=f"seed{seed}"))["run"]) for seed in range(3)]


def test_runs_that_differ_in_their_seed_alone_are_a_group(seeds, searchable, tmp_path):
    again = shutil.copytree(seeds[0], tmp_path / "again")
    assert groups_of_seeds([*seeds, searchable.run, again]) == [seeds]
    assert groups_of_seeds([seeds[0], again]) == []
    other = shutil.copytree(seeds[1], tmp_path / "other")
    record = json.loads((other / "config.json").read_text())
    record["config"]["margin"] = 0.4
    (other / "config.json").write_text(json.dumps(record))
    assert groups_of_seeds([seeds[0], other]) == []
    # It changes nothing of a head what its margin would be, were it trained with one.
    for run in (other, again):
        record = json.loads((run / "config.json").read_text())
        record["config"] |= {"loss": "infonce", "seed": 7 if run == other else 8}
        (run / "config.json").write_text(json.dumps(record))
    assert groups_of_seeds([again, other]) == [[again, other]]


def test_curves_are_those_of_the_histories_as_far_as_all_went(seeds, tmp_path):
    short = shutil.copytree(seeds[1], tmp_path / "short")
    lines = (short / "history.csv").read_text().splitlines(keepends=True)
    (short / "history.csv").write_text("".join(lines[:-1]))
    curves = seed_curves([seeds[0], short, seeds[2]])
    histories = []
    for run in (seeds[0], short, seeds[2]):
        with (run / "history.csv").open() as file:
            histories.append([float(row["val_rsum"]) for row in csv.DictReader(file)])
    assert list(map(len, histories)) == [3, 2, 3]
    of = curves["columns"]["val_rsum"]
    assert of["epoch"] == [0, 1]
    for place, values in enumerate(list(zip(*histories, strict=False))[:2]):
        assert of["mean"][place] == pytest.approx(sum(values) / 3)
        assert (of["low"][place], of["high"][place]) == (min(values), max(values))
    # Before the first epoch there is no loss.
    assert curves["columns"]["loss"]["epoch"] == [1]
    (short / "history.csv").unlink()
    assert seed_curves([seeds[0], short]) is None


@pytest.mark.ci
def test_the_band_is_in_the_report_and_among_the_figures(seeds, tmp_path):
    pytest.importorskip("matplotlib")
    runs = [shutil.copytree(run, tmp_path / run.name) for run in seeds]
    config = ReportConfig(runs=runs, out=tmp_path / "r.html", figures=tmp_path / "figures")
    result = report(config)
    text = (tmp_path / "r.html").read_text(encoding="utf-8")
    part = text[text.index(f">{TITLE}</h2>") :].partition("</section>")[0]
    assert "seed0, seed1, seed2" in part
    assert part.count('<polygon class="band') == 4
    assert "the mean of 3 seeds, in a band from the lowest to the highest" in part
    drawn = re.search(r'aria-label="Validation rsum by epoch">.*?points="([^"]+)"', part, re.S)[1]
    heights = [float(point.split(",")[1]) for point in drawn.split()]
    highs, lows = heights[:3], heights[3:][::-1]
    of = seed_curves(runs)["columns"]["val_rsum"]
    # Values between the ends of the axis are as far apart as their places; upwards is smaller.
    scale = (max(lows) - min(highs)) / (max(of["high"]) - min(of["low"]))
    assert [max(lows) - height for height in highs] == pytest.approx(
        [scale * (value - min(of["low"])) for value in of["high"]], abs=0.2
    )
    assert [max(lows) - height for height in lows] == pytest.approx(
        [scale * (value - min(of["low"])) for value in of["low"]], abs=0.2
    )
    assert str(tmp_path / "figures/seeds-1-loss.pdf") in result["figures"]
