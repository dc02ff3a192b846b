import pytest
from rich.cells import cell_len

from clipret.reporting.failures import failures_sheets, failures_summary
from tests.helpers.drawing import drawn as drawn_sheets

HEADS = ["zero-shot", "trained"]


def image(name="1f3c9.png", caption="rugby football"):
    return {"id": name.removesuffix(".png"), "file": name, "caption": caption}


def caption(text, name="1f3c9.png"):
    return {"id": "c1", "caption": text, "image": name.removesuffix(".png"), "file": name}


def query(side, ranks, *, text="a dog", retrieved=("tennis",)):
    asked, item = (caption(text), image) if side == "t2i" else (image(), caption)
    wrong = [item(caption=word) if side == "t2i" else item(word) for word in retrieved]
    expected = [image()] if side == "t2i" else [caption("a ball"), caption("a brown ball")]
    ranks = dict(zip(HEADS, ranks, strict=False))
    return {**asked, "fold": 0, "ranks": ranks, "matching": 2, "expected": expected, "retrieved": wrong}


def figures(share, median=2.0):
    return {"R@1": share, "R@10": share, "MRR": share, "median_rank": median}


def a_bin(low, high, queries, *, heads=HEADS):
    results = {head: figures(0.25 * (1 + place)) for place, head in enumerate(heads)}
    return {"low": low, "high": high, "queries": queries, "few": queries < 30, "results": results}


def direction(side, heads=HEADS):
    item = image("wolf.png", "wolf") if side == "t2i" else caption("a wolf")
    changed = {
        "improved": 155,
        "worsened": 1086,
        "same": 335,
        "mean_log2_ratio": -1.0,
        "most_improved": [query(side, (15, 1), retrieved=())],
        "most_worsened": [query(side, (1, 1009))],
    }
    hubs = {
        "items": 376,
        "slots": 5760,
        "mean": 15.32,
        "skewness": 0.698,
        "never_retrieved": 12,
        "never_retrieved_share": 0.0319,
        "top_items": 4,
        "top_share": 0.0234,
        "largest": [{**item, "fold": 0, "counts": dict(zip(heads, (35, 1036), strict=False))}],
    }
    return {
        "queries": 1576,
        "worst": [query(side, (339, 1361)[: len(heads)], retrieved=("tennis", "umbrella", "rocket"))],
        "changed": changed if len(heads) > 1 else None,
        "hubs": {head: {**hubs, "skewness": 0.698 + place} for place, head in enumerate(heads)},
        "overall": {head: figures(0.5, 1.0) for head in heads},
        "breakdown": {
            "caption_length": {
                "bins": [a_bin(1.0, 1.0, 1218, heads=heads), a_bin(1.3333, 4.0, 29, heads=heads)],
                "left_out": 0,
            },
            "positives": {"bins": [a_bin(1.0, 1.0, 1576, heads=heads)], "left_out": 0},
        },
    }


@pytest.fixture
def report():
    return {
        "cache": {"path": "made.h5", "model": "made", "dataset": "made"},
        "run": "runs/0001-margin-linear",
        "finished": True,
        "head": "runs/0001-margin-linear/head.safetensors",
        "protocol": {
            "name": "split",
            "split": "test",
            "images": 376,
            "images_left_out": 0,
            "precision": "fp32",
            "folds": 1,
            "remarks": [],
            "t2i": {"queries": 1576, "gallery": 376},
            "i2t": {"queries": 376, "gallery": 1576},
        },
        "leakage": {"checked": True, "trained_on": 0, "images": 376},
        "heads": HEADS,
        "top": 10,
        "directions": {side: direction(side) for side in ("t2i", "i2t")},
    }


def raw_lines(report, *, width=100):
    return [line.rstrip() for line in drawn_sheets(failures_sheets(report), width=width).splitlines()]


def drawn(report):
    return [" ".join(line.split()) for line in raw_lines(report)]


def test_the_worst_queries_come_with_ranks_what_was_expected_and_what_came_up(report):
    lines = drawn(report)
    assert "t2i: the worst of 1,576 captions, among 376 images" in lines
    assert "zero-shot trained query expected instead" in lines
    first = lines.index("339 1,361 a dog 1f3c9.png tennis")
    assert lines[first + 1 : first + 3] == ["umbrella", "rocket"]
    assert "i2t: the worst of 1,576 images, among 1,576 captions" in lines
    first = lines.index("339 1,361 1f3c9.png a ball tennis")
    assert lines[first + 1 : first + 3] == ["a brown ball umbrella", "rocket"]


def test_changes_are_counted_and_listed_both_ways(report):
    lines = drawn(report)
    assert "t2i: ranks against zero-shot: 155 improved, 1,086 worsened, 335 same" in lines
    first = lines.index("most improved")
    assert lines[first + 1 : first + 5] == ["15 1 a dog –", "", "most worsened", "1 1,009 a dog tennis"]
    words = " ".join(lines)
    assert "by the ratio of the two ranks: from 1 to 10 is more than from 500 to 600" in words
    assert "ranks times 0.500 on average (geometric mean; below 1 is better)" in words


def test_where_nothing_changed_that_is_said(report):
    report["directions"]["t2i"]["changed"] |= {"most_improved": [], "most_worsened": []}
    lines = drawn(report)
    assert "none improved" in lines
    assert "none worsened" in lines


def test_hubs_are_shown_next_to_those_of_zero_shot(report):
    lines = drawn(report)
    assert "t2i: hubs, images in the top 10 of many queries" in lines
    assert "skewness of N_10 0.70 1.70" in lines
    assert "in no top 10 3.2% 3.2%" in lines
    assert "share of the most frequent 4 items of 376 2.3% 2.3%" in lines
    assert "N_10 on average 15.3 15.3" in lines
    assert lines[lines.index("N_10 of the largest, trained") + 1] == "wolf 35 1,036"
    assert "a wolf 35 1,036" in lines


def test_breakdowns_mark_few_queries_and_leave_out_what_is_one_bin(report):
    lines = drawn(report)
    assert "all 1,576 50.0 → 50.0 50.0 → 50.0 50.0 → 50.0 1.0 → 1.0" in lines
    assert "1 1,218 25.0 → 50.0 25.0 → 50.0 25.0 → 50.0 2.0 → 2.0" in lines
    assert "1.3–4 29* 25.0 → 50.0 25.0 → 50.0 25.0 → 50.0 2.0 → 2.0" in lines
    assert "matching items" not in lines
    assert lines.count("words: the mean over the image's captions") == 1
    assert lines.count("*: few queries, the figures say little") == 2
    breakdown = report["directions"]["i2t"]["breakdown"]
    breakdown["positives"]["bins"].append(a_bin(2.0, 7.0, 300))
    breakdown["caption_length"] = {"bins": breakdown["caption_length"]["bins"][:1], "left_out": 3}
    lines = drawn(report)
    assert "2–7 300 25.0 → 50.0 25.0 → 50.0 25.0 → 50.0 2.0 → 2.0" in lines
    assert lines.count("matching items") == lines.count("words a caption") == 1
    assert "3 images without a caption of their own are in no row of words" in lines


def test_zero_shot_alone_has_one_column_and_no_changes(report):
    alone = {"heads": ["zero-shot"], "run": None, "head": None, "leakage": None}
    report |= {**alone, "directions": {side: direction(side, ["zero-shot"]) for side in ("t2i", "i2t")}}
    lines = drawn(report)
    assert len(failures_sheets(report)) == 6
    assert "339 a dog 1f3c9.png tennis" in lines
    assert "wolf 35" in lines
    assert "all 1,576 50.0 50.0 50.0 1.0" in lines
    assert "percent; zero-shot" in lines
    assert failures_summary(report) == "zero-shot, cache made.h5, protocol split, test"


def with_texts(report, *, text):
    """What is drawn when every caption is this one, files are in deep folders, and a median has many digits."""
    for side in ("t2i", "i2t"):
        part = report["directions"][side]
        items = [*part["worst"], *part["changed"]["most_improved"], *part["changed"]["most_worsened"]]
        items += part["hubs"]["trained"]["largest"]
        items += [item for entry in items for name in ("expected", "retrieved") for item in entry.get(name, ())]
        for item in items:
            item |= {"caption": text, "file": f"{'folder/' * 30}file.png"}
        part["breakdown"]["caption_length"]["bins"][1]["results"]["trained"] = figures(1.0, 98765.5)
    return raw_lines(report)


@pytest.mark.parametrize(
    "text",
    [
        "[bold]not markup[/bold] :smile: " + "long " * 40,
        "狗" * 90,
        "x" * 300,
        "two\nlines\tand \x1b[31m an \u202eescape \r and more of this and more of this and more of this",
    ],
    ids=["markup", "wide", "a word", "controls"],
)
def test_long_and_strange_captions_and_files_are_cut_to_one_line_of_100_columns(report, text):
    usual = len(with_texts(report, text="word " * 40))
    lines = with_texts(report, text=text)
    assert len(lines) == usual
    assert max(cell_len(line) for line in lines) <= 100
    drawing = "\n".join(lines)
    assert not {"\x1b", "\u202e"} & set(drawing)
    assert "/file.png" in drawing
    assert "…" in drawing
    if text.startswith("["):
        assert "[bold]not markup[/bold] :smile:" in drawing


def test_no_figure_is_cut_in_a_narrow_terminal(report):
    lines = raw_lines(report, width=80)
    assert max(map(cell_len, lines)) <= 80
    assert not [line for line in lines if "…" in line]
    wide = [" ".join(line.split()) for line in raw_lines(report)]
    narrow = [" ".join(line.split()) for line in lines]
    assert [line for line in narrow if "→" in line] == [line for line in wide if "→" in line]
    assert "zero-shot trained query trained head's best wrong" in narrow


def test_an_image_without_a_caption_is_called_by_its_file(report):
    for entry in (report["directions"]["t2i"]["worst"][0]["retrieved"][0], *report_hubs(report)):
        entry["caption"] = None
    lines = drawn(report)
    assert "339 1,361 a dog 1f3c9.png 1f3c9.png" in lines
    assert "wolf.png 35 1,036" in lines


def report_hubs(report):
    return report["directions"]["t2i"]["hubs"]["trained"]["largest"]


def test_the_summary_says_what_has_to_be_known(report):
    assert failures_summary(report) == "run runs/0001-margin-linear, cache made.h5, protocol split, test"
    report["protocol"] |= {"folds": 5, "images_left_out": 4, "remarks": ["few images", "a prompt"]}
    report["leakage"] |= {"trained_on": 36}
    assert failures_summary(report).splitlines()[1:] == [
        "each of 5 galleries was ranked by itself; their queries are put together",
        "376 of 380 images: 4 have no usable feature and are left out",
        "not comparable with published figures: few images; a prompt",
        "LEAK: 36 of these 376 images were trained on",
    ]
    report["leakage"] = {"checked": False, "trained_on": None, "images": 376}
    assert failures_summary(report).splitlines()[-1] == (
        "leakage was not checked: the head does not say which images it was trained on; of imported features it cannot"
    )
    report |= {"run": None, "head": "alone.safetensors"}
    assert failures_summary(report).startswith("alone.safetensors, cache made.h5")
