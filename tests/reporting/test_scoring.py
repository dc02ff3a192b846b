from clipret.reporting.scoring import scoring_sheets
from tests.helpers.drawing import drawn
from tests.reporting.test_metrics import NAMES, report, rows


def scored(*, intervals=True, heads=("zero-shot",), **protocol):
    """metrics.json with figures by nnn, which are those of the trained head there."""
    measured = report(intervals=intervals, **protocol)
    better, gain = measured["results"]["trained"], measured["intervals"] and measured["intervals"]["gain"]
    measured["scoring"] = {
        "name": "nnn",
        "bank": {"split": "train", "images": 1355, "captions": 2146},
        "parameters": {head: {"t2i": {"alpha": 0.25, "k": 64}, "i2t": {"alpha": 1.0, "k": 4}} for head in heads},
        "val": {head: {way: {"cosine": 2.382, "nnn": 2.35} for way in ("t2i", "i2t")} for head in heads},
        "results": dict.fromkeys(heads, better),
        "rsum": dict.fromkeys(heads, 2.75),
        "intervals": None
        if not intervals
        else {
            "heads": dict.fromkeys(heads, measured["intervals"]["heads"]["trained"]),
            "gain": dict.fromkeys(heads, gain),
        },
    }
    return measured


def shown(measured):
    return drawn(scoring_sheets(measured, names=NAMES), width=80)


def test_cosine_and_the_scoring_stand_side_by_side_with_the_interval_of_the_difference():
    text = shown(scored())
    assert text.startswith("zero-shot by nnn, emoji test, protocol split\n")
    words = {name: " ".join(words) for name, words in rows(text).items()}
    assert text.splitlines()[2].split() == ["cosine", "nnn", "gain"]
    assert words["R@1"] == "50.0 [49.0, 51.0] 62.5 [61.5, 63.5] +12.5 [11.5, 13.5]"
    assert words["rsum"] == "2.500 [2.00, 3.00] 2.750 [2.25, 3.25] +0.250 [-0.25, 0.75]"
    assert text.endswith(
        "t2i: alpha 0.25, k 64; chosen on val, R@1 + R@5 + R@10 there 2.382 → 2.350\n"
        "i2t: alpha 1, k 4; chosen on val, R@1 + R@5 + R@10 there 2.382 → 2.350\n"
        "bank: 2,146 captions (t2i) and 1,355 images (i2t) of train\n"
        "percent; ties count against us\n"
        "in brackets 95 % intervals over images; the gain's by 1,000 paired flips\n"
        "a gain in ranks has no interval\n"
        "figures by nnn are not comparable with figures by cosine, which papers report\n"
    )
    assert max(map(len, text.splitlines())) <= 80


def test_without_intervals_the_figures_stand_alone():
    text = shown(scored(intervals=False))
    assert rows(text)["R@1"] == ["50.0", "62.5", "+12.5"]
    assert "brackets" not in text


def test_each_head_and_each_protocol_has_its_table():
    measured = scored(heads=("zero-shot", "trained"))
    also = scored(name="coco-karpathy-1k", remarks=["x"])
    text = shown({**measured, "also": [{name: part for name, part in also.items() if name != "cache"}]})
    titles = [line for line in text.splitlines() if " by nnn, " in line]
    assert titles == [
        "zero-shot by nnn, emoji test, protocol split",
        "trained by nnn, emoji test, protocol split",
        "zero-shot by nnn, emoji test, protocol coco-karpathy-1k",
    ]
    assert "not comparable with published figures: x" in text


def test_what_was_chosen_on_the_measured_split_is_said_to_be():
    said = "the parameters were chosen on this split: expect less on other data"
    assert said in shown(scored(split="val"))
    assert said not in shown(scored())


def test_by_cosine_alone_there_is_no_table():
    assert scoring_sheets(report(), names=NAMES) == ()
