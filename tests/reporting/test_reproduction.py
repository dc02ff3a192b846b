import pytest

from clipret.evaluation.reproduction.published import list_published, published_rows
from clipret.reporting.reproduction import (
    outside_message,
    published_sheets,
    published_summary,
    reproduction_sheets,
    reproduction_summary,
)
from tests.helpers import drawing

LANGUAGES = ("mean", "de", "ja")


def drawn(sheets, *, width=100):
    return [line.rstrip() for line in drawing.drawn(sheets, width=width).splitlines()]


def row(name="open_clip ViT-B/32 zero-shot, coco-karpathy-5k", **changes):
    values = {
        "name": name,
        "source": "open_clip",
        "citation": "somewhere, table 1",
        "model": "ViT-B/32",
        "method": "zero-shot",
        "dataset": "coco",
        "protocol": "coco-karpathy-5k",
        "language": None,
        "digits": 2,
        "figures": [
            figure("i2t", "R@1", 50.1, 50.12),
            figure("t2i", "R@1", 28.44, 30.44, within=False),
        ],
        "passed": False,
        "explanations": ["one reason", "another"],
    }
    return values | changes


def figure(direction, metric, ours, published, *, within=True):
    return {
        "direction": direction,
        "metric": metric,
        "ours": ours,
        "published": published,
        "difference": ours - published,
        "within": within,
    }


def report(*rows, unmatched=(), **changes):
    values = {
        "cache": {
            "path": "data/[a].h5",
            "dataset": "coco-karpathy",
            "recognised": "ViT-B/32",
            "recognised_by": "weights",
        },
        "tolerance": 0.5,
        "protocols": {"coco-karpathy-5k": {"remarks": [], "images_left_out": 0}},
        "rows": list(rows),
        "unmatched": list(unmatched),
        "elsewhere": {"rows": 0, "models": 0},
        "compared": 2,
        "outside": 1,
    }
    return values | changes


def test_a_row_is_a_block_with_our_and_the_published_results():
    title, _, *lines = drawn(reproduction_sheets(report(row())))
    assert title.strip() == "data/[a].h5: coco-karpathy, ViT-B/32"
    assert lines[1].strip("─ ") == ""
    assert [" ".join(line.split()) for line in [lines[0], *lines[2:]]] == [
        "ours published difference",
        "open_clip, coco-karpathy-5k, zero-shot",
        "i2t R@1 50.10 50.12 -0.02 ok",
        "t2i R@1 28.44 30.44 -2.00 outside",
        "",
        "percent; ties count against us; ok: no further than 0.5 points away",
        "open_clip: somewhere, table 1",
    ]


def test_published_figures_have_the_decimals_of_their_source():
    lines = drawn(reproduction_sheets(report(row(digits=1, figures=[figure("i2t", "R@1", 58.44, 58.4)]))))
    assert lines[5].split() == ["i2t", "R@1", "58.44", "58.4", "+0.04", "ok"]


def test_what_a_comparison_must_be_read_with_stands_below_it():
    protocols = {"coco-karpathy-5k": {"remarks": ["4 images where the protocol has 5,000"], "images_left_out": 1200}}
    cache = {**report()["cache"], "recognised_by": "file"}
    lines = drawn(reproduction_sheets(report(row(), row("the other"), protocols=protocols, cache=cache)))
    assert lines[lines.index("open_clip: somewhere, table 1") :] == [
        "open_clip: somewhere, table 1",
        "coco-karpathy-5k: 4 images where the protocol has 5,000",
        "coco-karpathy-5k: 1,200 images have no usable feature and are left out",
        "taken for ViT-B/32 by its file, not its weights",
    ]


def test_explanations_and_rows_that_were_not_compared_are_told_in_words():
    unmatched = [
        row("own", reason="it is of another prompt", needs="clipret extract --dataset coco"),
        row("gone", reason="cannot be reproduced", needs=None),
        *(
            row(f"xtd10 {name}", protocol="xtd10", language=name, reason="no such set", needs=None)
            for name in LANGUAGES
        ),
        row("other words", reason="cannot be reproduced", needs=None),
    ]
    passed = row("fine", passed=True, explanations=[])
    elsewhere = {"rows": 2000, "models": 20}
    assert reproduction_summary(report(row(), passed, unmatched=unmatched, elsewhere=elsewhere)).splitlines() == [
        "open_clip ViT-B/32 zero-shot, coco-karpathy-5k: 1 of 2 figures are outside. What may explain it:",
        "  - one reason",
        "  - another",
        "Not compared:",
        "  own: it is of another prompt",
        "    needs: clipret extract --dataset coco",
        "  gone: cannot be reproduced",
        "  xtd10 mean, and 2 languages: no such set",
        "  other words: cannot be reproduced",
        "2,000 more rows of 20 other models; clipret reproduce --list shows them and the cache that each needs.",
    ]
    assert reproduction_summary(report(passed)) == ""
    (line,) = reproduction_summary(report(passed, elsewhere={"rows": 1, "models": 1})).splitlines()
    assert line == ("1 more row of 1 other model; clipret reproduce --list shows them and the cache that each needs.")


def test_the_error_names_the_figure_that_is_furthest_away():
    near = row("near", figures=[figure("i2t", "R@5", 75.6, 75.0, within=False)])
    assert outside_message(report(near, row())) == (
        "1 of 2 figures of data/[a].h5 are not within 0.5 points of the published ones, the furthest t2i R@1 of "
        "open_clip ViT-B/32 zero-shot, coco-karpathy-5k: 28.44 where 30.44 was expected; see the explanations that are "
        "printed with the figures, or allow more with --tolerance."
    )


@pytest.mark.ci
def test_all_that_was_published_is_listed_within_100_columns():
    lines = drawn(published_sheets(list_published()))
    text = "\n".join(lines)
    assert "…" not in text
    assert max(map(len, lines)) <= 100
    for published in published_rows():
        if published.language not in (None, "mean"):
            continue
        for direction in ("i2t", "t2i"):
            recalls = [value for name, value in published.figures[direction].items() if name[:2] == "R@"]
            assert "/".join(f"{value:.{published.source.digits}f}" for value in recalls) in text


@pytest.mark.ci
def test_the_list_groups_rows_by_source_protocol_and_method():
    rows = [entry for entry in list_published()["rows"] if entry["source"] in ("CLIP paper", "ECCV Caption")]
    paper, eccv = published_sheets({"rows": rows, "remarks": {"CLIP paper": "what to know"}})
    lines = [" ".join(line.split()) for line in drawn([paper])[4:]]
    assert lines[:3] == [
        "coco-karpathy-5k, zero-shot",
        "ViT-L/14@336px R@1/5/10 58.4/81.5/88.1 37.8/62.4/72.2",
        "",
    ]
    assert " ".join(lines[3:]) == (
        "percent; Radford et al., Learning Transferable Visual Models From Natural Language Supervision, ICML 2021, "
        "table 13 what to know coco-karpathy-5k, zero-shot: the paper tells the words that stand before a caption, "
        "and neither punctuation nor case"
    )
    lines = [" ".join(line.split()) for line in drawn([eccv])]
    assert lines[lines.index("coco-karpathy-eccv, zero-shot") :][:4] == [
        "coco-karpathy-eccv, zero-shot",
        "ViT-L/14 R@1 71.29 72.97",
        "R-Precision 33.82 41.77",
        "mAP@R 23.99 31.96",
    ]


@pytest.mark.parametrize("width", [80, 100])
def test_no_figure_is_cut_in_a_narrow_terminal(width):
    listed = list_published()
    text = "\n".join(drawn(published_sheets(listed), width=width))
    assert "…" not in text
    for entry in listed["rows"]:
        if entry["language"] not in (None, "mean"):
            continue
        for metrics in entry["figures"].values():
            assert all(f"{value:.{entry['digits']}f}" in text for value in metrics.values())
    text = "\n".join(drawn(reproduction_sheets(report(row(protocol="flickr30k-karpathy-1k"))), width=width))
    assert "…" not in text
    assert all(word in text for word in ("published", "difference", "50.12", "-2.00", "outside"))


@pytest.mark.ci
def test_a_remark_of_several_groups_stands_once():
    (reference,) = [sheet for sheet in published_sheets(list_published()) if sheet.title == "reference"]
    text = " ".join(drawn([reference]))
    assert (
        "flickr30k at random, cross-entropy, ViT-L/14: t2i R@1 75.96 and mAP_hits@1 75.92 contradict each other, as at "
        "K = 1 they are the same"
    ) in text
    assert text.count("cannot be reproduced") == text.count("whose seed and number of epochs") == 1
    assert "flickr30k at random, zero-shot; flickr30k at random, cross-entropy; flickr30k at random, margin:" in text


@pytest.mark.ci
def test_a_remark_of_some_models_names_them_and_of_most_of_a_group_the_group():
    (sheet,) = [sheet for sheet in published_sheets(list_published()) if sheet.title == "open_clip"]
    assert (
        "open_clip:ViT-B-16/dfn2b: measured under a name whose activation is GELU, where these weights were trained "
        "with QuickGELU, with which clipret computes them"
    ) in sheet.notes
    sheet = published_sheets(list_published())[-1]
    assert "xtd10 mean, zero-shot: 1,000 images, one caption an image" in sheet.notes
    assert len(sheet.notes) == 6


@pytest.mark.ci
def test_what_rows_need_is_told_once_a_command():
    assert published_summary(list_published()).splitlines() == [
        "Sources:",
        "  open_clip: https://github.com/mlfoundations/open_clip/blob/main/docs/openclip_retrieval_results.csv",
        "  CLIP paper: https://arxiv.org/abs/2103.00020",
        "  ECCV Caption: https://github.com/naver-ai/eccv-caption",
        "  reference: https://github.com/hxhhxx/Clip_crossmodal_retrieval",
        "  open_clip multilingual: "
        "https://github.com/mlfoundations/open_clip/blob/main/docs/openclip_multilingual_retrieval_results.csv",
        "What makes a cache, and a head, for them; MODEL is the row's:",
        "  clipret extract --dataset coco --split karpathy --model MODEL",
        "    for coco-karpathy-5k zero-shot",
        "    for coco-karpathy-5k-first5 zero-shot",
        "    for coco-karpathy-1k zero-shot",
        "    for coco-karpathy-cxc zero-shot",
        "    for coco-karpathy-eccv zero-shot",
        "  clipret extract --dataset flickr30k --model MODEL",
        "    for flickr30k-karpathy-1k zero-shot",
        "  clipret extract --dataset coco --split karpathy --prompt 'a photo of {}' --model MODEL",
        "    for coco-karpathy-5k zero-shot",
        "  clipret extract --dataset coco --model MODEL",
        "    for coco-val2017 zero-shot",
        "  clipret extract --dataset coco --model MODEL; clipret train --cache data/coco.h5 --loss infonce",
        "    for coco-val2017 cross-entropy",
        "  clipret extract --dataset coco --model MODEL; clipret train --cache data/coco.h5 --reduction mean",
        "    for coco-val2017 margin",
        "  clipret extract --dataset xm3600 --model MODEL",
        "    for xm3600 zero-shot",
        "  clipret extract --dataset xtd10 --model MODEL",
        "    for xtd10 zero-shot",
    ]


@pytest.mark.parametrize("name", ["[bold]x[/bold]", "[/]"])
def test_names_are_no_markup(name):
    lines = drawn(reproduction_sheets(report(row(protocol=name, citation=name))))
    assert lines[4].strip() == f"open_clip, {name}, zero-shot"
    assert f"open_clip: {name}" in lines
