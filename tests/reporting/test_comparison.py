"""What a comparison looks like."""

import csv
import io

import pytest

from clipret.reporting import FORMS
from clipret.reporting.comparison import comparison_records, comparison_sheets
from tests.helpers import drawing


def nested(recall, mean_rank, rsum):
    return {direction: {"R@1": recall, "mean_rank": mean_rank} for direction in ("t2i", "i2t")} | {"rsum": rsum}


def group(name, *, recall, seeds=(0,), label=None, model="tiny"):
    return {
        "name": name,
        "label": label or name,
        "runs": [name],
        "seeds": list(seeds),
        "model": model,
        "values": nested(recall, 4.25, 2 * recall),
        "intervals": nested([recall - 0.05, recall + 0.05], None, [2 * recall - 0.1, 2 * recall + 0.1]),
        "spread": nested(0.004, 0.5, 0.0123) if len(seeds) > 1 else None,
    }


def pair(a, b, metric, direction="t2i", *, difference=0.0123, p=0.2, p_holm=0.4, verdict="no difference shown"):
    interval = None if metric == "mean_rank" else [-0.012, 0.036]
    names = {"a": a, "b": b, "metric": metric, "direction": direction, "difference": difference, "interval": interval}
    return {**names, "p": p, "p_holm": p_holm, "verdict": verdict}


def pairs_of(a, b, **changed):
    columns = [(direction, metric) for direction in ("t2i", "i2t") for metric in ("R@1", "mean_rank")] + [
        (None, "rsum")
    ]
    return [pair(a, b, metric, direction, **changed.get(f"{direction} {metric}", {})) for direction, metric in columns]


@pytest.fixture
def result():
    won = {"difference": 0.0312, "p": 0.0001, "p_holm": 0.0004, "verdict": "A better"}
    lost = {"verdict": "B better", "p_holm": 0.01, "p": 0.004}
    return {
        "protocol": {"name": "split", "split": "test", "images": 1376, "captions": 5760, "folds": 1},
        "groups": [
            group("runs/a", label="loss=margin", recall=0.538, seeds=(0, 1)),
            group("runs/b", label="loss=info_nce", recall=0.526),
            group("zero-shot", recall=0.509, seeds=()),
        ],
        "pairs": [
            *pairs_of("runs/a", "runs/b", **{"t2i R@1": won}),
            *pairs_of("runs/a", "zero-shot", **{"t2i R@1": won, "i2t R@1": won}),
            *pairs_of("runs/b", "zero-shot", **{"t2i mean_rank": lost}),
        ],
        "metrics": ["R@1", "mean_rank", "rsum"],
        "k": [1],
        "level": 0.95,
        "alpha": 0.05,
        "family": 15,
        "flips": 10_000,
        "seed": 0,
        "remarks": ["LEAK: runs/a was trained on 2 of these [1,376] images"],
    }


def drawn(result, width=100):
    return drawing.words(drawing.drawn(comparison_sheets(result, short=True), width=width))


def test_figures_have_their_spread_and_below_them_their_interval(result):
    lines = drawn(result)
    assert "test, protocol split" in lines
    start = lines.index("t2i t2i i2t i2t")
    assert lines[start + 1] == "R@1 mean rank R@1 mean rank rsum"
    place = lines.index("1 loss=margin (2 seeds) 53.8±0.4 4.2±0.5 53.8±0.4 4.2±0.5 1.076±0.012")
    assert lines[place + 1] == "48.8–58.8 48.8–58.8 0.976–1.176"
    assert "2 loss=info_nce 52.6 4.2 52.6 4.2 1.052" in lines
    assert "3 zero-shot 50.9 4.2 50.9 4.2 1.018" in lines


def test_notes_say_what_the_figures_are(result):
    lines = drawn(result)
    start = lines.index("percent; rsum from 0 to 2; ties count against us; 1,376 images, 5,760 captions")
    assert lines[start + 1 : start + 7] == [
        "intervals: 95 %, over images with their captions",
        "a mean rank has no interval: one image can move it by any amount",
        "±: standard deviation over seeds; intervals of several seeds cover other seeds too",
        "a run of one seed stands for itself, not for its settings",
        "bold: shown to be better than every other",
        "LEAK: runs/a was trained on 2 of these [1,376] images",
    ]


def test_notes_are_of_what_is_there(result):
    result["groups"] = [group("runs/a", recall=0.5), group("runs/b", recall=0.5, model="large")]
    result["pairs"], result["metrics"] = pairs_of("runs/a", "runs/b"), ["R@1"]
    result["protocol"]["folds"] = 5
    lines = drawn(result)
    assert "percent; ties count against us; 1,376 images, 5,760 captions, mean of 5 galleries" in lines
    assert "models: 1 tiny, 2 large" in lines
    assert not any("standard deviation" in line or "Student" in line for line in lines)


def test_differences_have_their_interval_their_tests_and_a_verdict(result):
    lines = drawn(result)
    start = lines.index("p")
    assert lines[start + 1] == "metric gain 95 % interval p (Holm) verdict"
    assert "1 - 2 t2i R@1 +3.1 -1.2 to +3.6 <0.001 <0.001 1 better" in lines
    assert "1 - 2 rsum +0.012 -0.012 to +0.036 0.200 0.400 no difference shown" in lines
    assert "2 - 3 t2i mean rank 0.0 – 0.004 0.010 3 better" in lines
    start = lines.index("p of two runs: two-sided, paired, 10,000 sign flips over images")
    assert lines[start + 1 : start + 7] == [
        "p with several seeds: two-sided, Student's t over images and seeds",
        "one run against several seeds: it is assumed to vary over seeds as they do",
        "a gain in ranks has no interval",
        "an interval leaves 0 out where p is at most 0.05",
        "p (Holm): corrected for the 15 tests here; intervals are not",
        "a difference is shown where p (Holm) is at most 0.05",
    ]


def test_without_flips_none_are_told(result):
    result["flips"] = None
    assert not any("flips" in line for line in drawn(result))


def test_only_what_is_better_than_every_other_is_bold(result):
    figures, _ = comparison_sheets(result)
    (rows,) = figures.blocks
    assert [[cell.emphasis for cell in row] for row in rows] == [
        ["", "bold", "", "", "", ""],
        [""] * 6,
        [""] * 6,
    ]


@pytest.mark.parametrize("width", [80, 100, 200])
def test_everything_fits_the_terminal_with_a_label_at_every_row(result, width):
    result["groups"][0]["label"] = "loss=margin margin=0.2 lr=0.0003"
    for entry in result["groups"]:
        for what in ("values", "intervals", "spread"):
            for direction in ("t2i", "i2t") if entry[what] else ():
                entry[what][direction] |= {"R@5": entry[what][direction]["R@1"], "R@10": entry[what][direction]["R@1"]}
                del entry[what][direction]["mean_rank"]
    text = drawing.drawn(comparison_sheets(result, short=True), width=width)
    assert max(map(len, text.splitlines())) <= width
    # A label takes more lines, a figure does not.
    assert text.count("48.8–58.8") == 6
    assert "…" not in text
    tables = text.count("test, protocol split")
    assert tables == {80: 2, 100: 2, 200: 1}[width]
    figures, differences = text.split("differences", maxsplit=1)
    for number in (1, 2, 3):
        assert sum(line.startswith(f" {number} ") for line in figures.splitlines()) == tables
    for pair in ("1 - 2", "1 - 3", "2 - 3"):
        assert sum(line.startswith(f" {pair} ") for line in differences.splitlines()) == text.count(pair) > 1
    assert "…" not in text


def test_many_columns_are_several_tables(result):
    for entry in result["groups"]:
        for what in ("values", "intervals", "spread"):
            for direction in ("t2i", "i2t") if entry[what] else ():
                entry[what][direction] |= {f"R@{cut}": entry[what][direction]["R@1"] for cut in (2, 3, 4)}
    lines = drawn(result)
    assert sum(line.startswith("2 loss=info_nce") for line in lines) == 2
    assert sum(line.startswith("percent") for line in lines) == 1


def test_of_many_pairs_only_differences_that_are_shown_are(result):
    names = [f"runs/{number}" for number in range(6)]
    result["groups"] = [group(name, recall=0.5) for name in names]
    both = [(a, b) for place, a in enumerate(names) for b in names[place + 1 :]]
    result["pairs"] = [entry for a, b in both for entry in pairs_of(a, b)]
    result["pairs"][0] |= {"verdict": "A better"}
    lines = drawn(result)
    assert [line for line in lines if line[:1].isdigit() and " - " in line] == [
        "1 - 2 t2i R@1 +1.2 -1.2 to +3.6 0.200 0.400 1 better"
    ]
    assert "of 15 pairs only the differences that are shown; all with --json" in lines
    result["pairs"][0] |= {"verdict": "no difference shown"}
    assert not any(line[:1].isdigit() and " - " in line for line in drawn(result))


def test_markdown_has_the_same_sheets(result):
    lines = FORMS["markdown"](comparison_sheets(result)).splitlines()
    assert lines[:6] == [
        "**test, protocol split**",
        "",
        "|  | t2i R@1 | t2i mean rank | i2t R@1 | i2t mean rank | rsum |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
        "| 1 loss=margin (2 seeds) | **53.8±0.4** (48.8–58.8) | 4.2±0.5 | 53.8±0.4 (48.8–58.8) | "
        "4.2±0.5 | 1.076±0.012 (0.976–1.176) |",
        "| 2 loss=info\\_nce | 52.6 (47.6–57.6) | 4.2 | 52.6 (47.6–57.6) | 4.2 | 1.052 (0.952–1.152) |",
    ]
    assert "LEAK: runs/a was trained on 2 of these \\[1,376] images  " in lines
    assert "| 1 - 2 | t2i R@1 | +3.1 | -1.2 to +3.6 | \\<0.001 | \\<0.001 | 1 better |" in lines


def test_latex_is_escaped_and_has_rules(result):
    result["groups"][1]["label"] = r"a_b&50%$x#{y}~^\z"
    text = FORMS["latex"](comparison_sheets(result))
    lines = text.splitlines()
    assert lines[0] == r"% \usepackage{booktabs}"
    row = next(line for line in lines if line.startswith("1 loss=margin (2 seeds) & "))
    assert row.split(" & ")[1:] == [
        r"\textbf{53.8$\pm$0.4}", r"4.2$\pm$0.5", r"53.8$\pm$0.4", r"4.2$\pm$0.5", r"1.076$\pm$0.012 \\"
    ]  # fmt: skip
    assert r"2 a\_b\&50\%\$x\#\{y\}\textasciitilde{}\textasciicircum{}\textbackslash{}z & 52.6" in text
    assert r" & {\scriptsize 47.6--57.6} &  & {\scriptsize 47.6--57.6} &  & " in text
    assert r"1 - 2 & t2i R@1 & +3.1 & -1.2 to +3.6 & $<$0.001 & $<$0.001 & 1 better \\" in lines
    for rule, count in (("toprule", 2), ("bottomrule", 2), ("midrule", 4), ("begin{tabular}", 2), ("end{table}", 2)):
        assert text.count(f"\\{rule}") == count
    assert text.count("{") == text.count("}")


def test_csv_has_plain_numbers_for_programs(result):
    rows = list(csv.DictReader(io.StringIO(FORMS["csv"](comparison_records(result)))))
    assert len(rows) == 3 * 5 + 3 * 5
    assert rows[0] == {
        "kind": "group", "a": "runs/a", "b": "", "label": "loss=margin", "seeds": "2", "direction": "t2i",
        "metric": "R@1", "value": "0.538", "low": str(0.538 - 0.05), "high": str(0.538 + 0.05), "spread": "0.004",
        "p": "", "p_holm": "", "verdict": "",
    }  # fmt: skip
    assert rows[5]["spread"] == ""
    assert (rows[14]["a"], rows[14]["direction"], rows[14]["metric"]) == ("zero-shot", "", "rsum")
    assert rows[15] == {
        "kind": "pair", "a": "runs/a", "b": "runs/b", "label": "", "seeds": "", "direction": "t2i", "metric": "R@1",
        "value": "0.0312", "low": "-0.012", "high": "0.036", "spread": "", "p": "0.0001", "p_holm": "0.0004",
        "verdict": "A better",
    }  # fmt: skip
