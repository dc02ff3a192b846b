import pytest

from clipret.evaluation.caveats import caveats
from clipret.reporting.curve import without_curve
from clipret.reporting.metrics import metrics_sheets
from tests.helpers.drawing import drawn

NAMES = ("R@1", "mAP@1", "median_rank", "rsum")


def report(*, leakage=None, intervals=True, **protocol):
    metrics = {"R@1": 0.5, "mAP@1": 0.5, "median_rank": 2.0, "R@5": 0.75}
    better = {"R@1": 0.625, "mAP@1": 0.45, "median_rank": 1.0, "R@5": 0.75}
    counts = {"t2i": {"queries": 1234, "gallery": 56}, "i2t": {"queries": 56, "gallery": 1234}}

    def around(values, rsum):
        ways = {
            direction: {name: [value - 0.01, value + 0.01] for name, value in values.items()}
            for direction in ("t2i", "i2t")
        }
        return {**ways, "rsum": [rsum - 0.5, rsum + 0.5]}

    gain = around({name: better[name] - metrics[name] for name in metrics}, 0.25)
    for direction in ("t2i", "i2t"):
        gain[direction]["median_rank"] = None
    heads = {"zero-shot": around(metrics, 2.5), "trained": around(better, 2.75)}
    return {
        "protocol": {
            "name": "split",
            "split": "test",
            "images": 56,
            "images_left_out": 0,
            "folds": 1,
            "map_divisor": "min",
            "precision": "fp32",
            "remarks": [],
            **counts,
            **protocol,
        },
        "cache": {"dataset": "emoji", "model": "tiny-emoji"},
        "finished": True,
        "leakage": leakage or {"checked": True, "trained_on": 0, "images": 56},
        "results": {"zero-shot": {"t2i": metrics, "i2t": metrics}, "trained": {"t2i": better, "i2t": better}},
        "rsum": {"zero-shot": 2.5, "trained": 2.75},
        "intervals": {"level": 0.95, "method": "m", "resamples": 1000, "heads": heads, "gain": gain}
        if intervals
        else None,
    }


def shown(measured, names=NAMES):
    return drawn(metrics_sheets(measured, names=names), width=80)


def rows(text):
    """First word -> the rest, of each line; of both directions, the last."""
    return {line.split()[0]: line.split()[1:] for line in text.splitlines() if line.strip()}


def test_the_table_shows_percent_counts_protocol_gain_and_intervals():
    text = shown(report())
    assert "emoji test, tiny-emoji, protocol split" in text
    assert "t2i: 1,234 captions among 56 images" in text
    assert "i2t: 56 images among 1,234 captions" in text
    assert text.count("R@1") == 2
    words = {name: " ".join(words) for name, words in rows(text).items()}
    assert words["R@1"] == "50.0 [49.0, 51.0] 62.5 [61.5, 63.5] +12.5 [11.5, 13.5]"
    assert words["mAP@1"] == "50.0 [49.0, 51.0] 45.0 [44.0, 46.0] -5.0 [-6.0, -4.0]"
    assert words["median"] == "rank 2.0 [2.0, 2.0] 1.0 [1.0, 1.0] -1.0"
    assert words["rsum"] == "2.500 [2.00, 3.00] 2.750 [2.25, 3.25] +0.250 [-0.25, 0.75]"
    assert max(map(len, text.splitlines())) <= 80
    assert "in brackets 95 % intervals over images; the gain's by 1,000 paired flips\na gain in ranks has no" in text
    assert not any(word in text for word in ("left out", "comparable", "LEAK", "leakage", "mean of", "rounded", "R@5"))


def test_a_third_head_has_its_intervals_below_so_that_all_fits_80_columns():
    measured = report()
    for part in (measured["results"], measured["rsum"], measured["intervals"]["heads"]):
        part["wise-ft 0.5"] = part["zero-shot"]
    text = shown(measured)
    lines = [" ".join(line.split()) for line in text.splitlines()]
    assert max(map(len, text.splitlines())) <= 80
    assert "…" not in text
    place = lines.index("R@1 50.0 62.5 50.0 +12.5")
    assert lines[place + 1] == "[49.0, 51.0] [61.5, 63.5] [49.0, 51.0] [11.5, 13.5]"


def test_without_intervals_the_figures_stand_alone():
    text = shown(report(intervals=False))
    assert rows(text)["R@1"] == ["50.0", "62.5", "+12.5"]
    assert "[" not in text
    assert "brackets" not in text


def test_zero_shot_alone_has_no_gain():
    measured = report()
    del measured["results"]["trained"], measured["rsum"]["trained"]
    measured["intervals"]["gain"] = None
    text = shown(measured)
    assert rows(text)["R@1"] == ["50.0", "[49.0,", "51.0]"]
    assert "gain" not in text.split()


def test_an_unfinished_run_is_called_so():
    assert "the run is unfinished: its training was interrupted, or still runs" in shown(
        {**report(), "finished": False}
    )
    for finished in (True, None):
        assert "unfinished" not in shown({**report(), "finished": finished})


def test_only_the_metrics_asked_for_are_shown():
    words = rows(shown(report(), names=("R@5",)))
    assert "R@5" in words
    assert not {"R@1", "rsum", "median"} & set(words)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"images_left_out": 3}, "56 of 59 images: 3 have no usable feature and are left out"),
        ({"remarks": ["x", "y"]}, "not comparable with published figures: x; y"),
        ({"folds": 5}, "among 56 images, mean of 5"),
        ({"precision": "bf16"}, "embeddings rounded to bf16"),
        (
            {"leakage": {"checked": True, "trained_on": 7, "images": 56}},
            "LEAK: 7 of these 56 images were trained on",
        ),
        (
            {"leakage": {"checked": False, "trained_on": None, "images": 56}},
            "leakage was not checked: the head does not say which images it was trained on; of imported features it "
            "cannot",
        ),
    ],
)
def test_the_table_says_what_a_reader_must_know(changes, said):
    assert said in " ".join(shown(report(**changes)).split())


def test_further_protocols_have_tables_of_their_own():
    also = {name: value for name, value in report(name="coco-karpathy-1k").items() if name != "cache"}
    text = shown({**report(), "also": [also]})
    assert "protocol split" in text
    assert "protocol coco-karpathy-1k" in text


def test_heads_of_a_curve_leave_the_rsum_too():
    measured = report()
    for alpha, value in (("wise-ft 0", 1.0), ("wise-ft 0.5", 1.5)):
        for part in (measured["results"], measured["intervals"]["heads"]):
            part[alpha] = part["zero-shot"]
        measured["rsum"] = {alpha: value, **measured["rsum"]}
    expected = shown(report())
    assert shown(without_curve(measured)) == expected


def test_the_divisor_is_told_where_there_is_something_that_it_divides():
    assert "mAP@K divides by min(K, matching items)" in shown(report())
    assert "divides" not in shown(report(), names=("R@1", "rsum"))


def test_what_no_head_can_exceed_is_said_below_the_table_with_the_protocol_that_asks_for_less():
    best = {"t2i": {"R@1": 0.25, "R@5": 1.0}, "i2t": {"R@1": 0.0, "R@5": 0.5}}
    said = (
        "the best that any head can reach here, as several images share captions: t2i R@1 25.0, i2t R@1 0.0, R@5 50.0"
    )
    advice = "where equal captions should match all their images: --protocol split-equal-texts"

    def caveats_of(**protocol):
        return caveats(report(best_reachable=best, **protocol))

    assert caveats_of() == [said, advice]
    assert caveats_of(split="val") == [said, f"{advice} --split val"]
    assert caveats_of(name="coco-val2017") == [said]
    rare = {"t2i": {"R@1": 0.998}, "i2t": {"R@1": 1.0}}
    assert caveats(report(best_reachable=rare)) == [f"{said.partition(': ')[0]}: t2i R@1 99.8"]
    assert caveats(report(best_reachable={"t2i": {"R@1": 0.9996}, "i2t": {"R@1": 1.0}})) == []
    assert caveats(report(best_reachable=None)) == []
