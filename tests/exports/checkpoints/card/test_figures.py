"""Figures in a model card are those of metrics.json."""

import json
import re

import pytest

from clipret.errors import RunError
from clipret.exports.checkpoints.card.figures import figure_lines, model_index, shown_metrics
from clipret.exports.checkpoints.card.text import read_figures

SIDES = {"t2i": "text to image", "i2t": "image to text"}


def rows_of(lines):
    """First cell -> the other cells of a table's rows."""
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("| ")]
    return {first: others for first, *others in cells}


def written(value, ends, *, scale, digits, sign="", fewer=None):
    fewer = digits if fewer is None else fewer
    text = f"{scale * value:{sign}.{digits}f}"
    return text if ends is None else f"{text} ({', '.join(f'{scale * end:.{fewer}f}' for end in ends)})"


def test_every_figure_is_the_one_of_metrics_json(run):
    report = json.loads((run / "metrics.json").read_text())
    (measured,) = read_figures(run)
    rows = rows_of(figure_lines(measured))
    assert rows.pop("") == ["zero-shot", "trained", "gain"]
    assert rows.pop("---") == ["---:"] * 3
    expected, heads = {}, report["intervals"]["heads"]
    for side, words in SIDES.items():
        for name in ("R@1", "R@5", "R@10", "mAP@10", "MRR", "median_rank"):
            scale = 1 if name == "median_rank" else 100
            values = [report["results"][head][side][name] for head in ("zero-shot", "trained")]
            ends = [heads[head][side][name] for head in ("zero-shot", "trained")]
            cells = [written(*pair, scale=scale, digits=1) for pair in zip(values, ends, strict=True)]
            gain = report["intervals"]["gain"][side][name]
            cells.append(written(values[1] - values[0], gain, scale=scale, digits=1, sign="+"))
            expected[f"{words}, {name.replace('_', ' ')}"] = cells
    sums, ends = report["rsum"], [heads[head]["rsum"] for head in ("zero-shot", "trained")]
    expected["rsum"] = [
        *(written(*pair, scale=1, digits=3, fewer=2) for pair in zip(sums.values(), ends, strict=True)),
        written(
            sums["trained"] - sums["zero-shot"],
            report["intervals"]["gain"]["rsum"],
            scale=1,
            digits=3,
            sign="+",
            fewer=2,
        ),
    ]
    escaped = {
        first: [re.sub(r"-0\.(0+)(?=[,)])", r"0.\1", cell) for cell in cells] for first, cells in expected.items()
    }
    assert rows == escaped


def test_the_index_has_them_with_all_digits(run):
    report = json.loads((run / "metrics.json").read_text())
    (entry,) = model_index("a run", read_figures(run))
    assert entry["name"] == "a run"
    for result, side in zip(entry["results"], SIDES, strict=True):
        assert result["dataset"] == {"type": "made", "name": "made, protocol split", "split": "test"}
        values = {metric["type"]: metric["value"] for metric in result["metrics"]}
        assert values == {name: report["results"]["trained"][side][name] for name in shown_metrics(report)}


def test_what_has_to_stand_beside_figures_does(run):
    (measured,) = read_figures(run)
    assert "- Note: the run is unfinished: its training was interrupted, or still runs." in figure_lines(
        measured | {"finished": False}
    )


def test_a_run_that_was_not_measured_has_none(run):
    (run / "metrics.json").unlink()
    assert read_figures(run) is None
    assert read_figures(None) is None


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda report: report.pop("intervals"), "it lacks the field intervals"),
        (lambda report: report["results"].pop("trained"), "results lacks trained"),
        (lambda report: report["protocol"].pop("t2i"), "protocol lacks t2i"),
    ],
)
def test_a_record_that_lacks_something_is_one_clear_line(run, change, problem):
    report = json.loads((run / "metrics.json").read_text())
    change(report)
    (run / "metrics.json").write_text(json.dumps(report))
    with pytest.raises(RunError) as error:
        read_figures(run)
    assert str(error.value) == (
        f"{run / 'metrics.json'} is not what clipret eval writes: {problem}; measure it again with: clipret eval "
        f"--head {run}"
    )
