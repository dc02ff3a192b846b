"""What a search shows."""

from rich.console import Console

from clipret.reporting import FORMS
from clipret.reporting.search import queries_summary, search_sheet
from tests.helpers import REPOSITORY

HIT = {"rank": 1, "score": 0.51249, "row": 3, "id": "a", "file": "README.md", "split": "test", "caption": "a\nb"}
RESULT = {
    "model": "tiny-emoji",
    "head": {"name": "zero-shot", "path": None},
    "split": "test",
    "find": "images",
    "gallery": 1234,
    "query": {"text": "two dogs", "image": None},
    "root": str(REPOSITORY),
    "min_score": None,
    "index": None,
    "hits": [HIT],
    "seconds": 0.5,
}


def shown(**changes):
    console = Console(width=100, force_terminal=True, color_system="standard", legacy_windows=False, record=True)
    with console.capture() as capture:
        console.print(FORMS["terminal"]((search_sheet(RESULT | changes),)))
    return capture.get()


def test_hits_are_a_table_with_links_to_files_that_are_there():
    text = shown()
    assert "\x1b]8;id=" in text
    assert f";file://{REPOSITORY}/README.md\x1b\\" in text
    assert "a b" in text
    assert "0.512" in text
    assert "1,234 images of test, tiny-emoji, head zero-shot, cosines" in text
    assert "file://" not in shown(hits=[HIT | {"file": "shard.tar/1.png"}])


def test_file_names_cannot_end_a_link_or_command_a_terminal():
    harmful = "x\x1b]8;;http://evil\x1b\\y.png"
    text = shown(
        hits=[HIT | {"file": harmful, "caption": harmful, "id": harmful}], query={"text": harmful, "image": None}
    )
    assert "\x1b]8;;http" not in text
    assert "\\x1b]8;;" in text


def test_thresholds_and_indexes_are_said():
    sheet = search_sheet(
        RESULT
        | {
            "hits": [],
            "min_score": {"value": 0.25, "precision": 0.806},
            "index": {"kind": "usearch", "recall@10": 0.987, "queries": 1000},
            "query": {"text": "a", "image": "b.png"},
            "split": "all",
        }
    )
    assert sheet.title == "a + b.png"
    assert sheet.notes == (
        "1,234 images of all splits, tiny-emoji, head zero-shot, cosines",
        "only cosines from 0.250 on: 81% of the hits on val are right",
        "nothing found",
        "approximate, by usearch: recall@10 is 0.987 with 1,000 captions as queries",
    )


def test_many_queries_are_summed_up():
    assert queries_summary(RESULT | {"out": "h.csv", "hits": 2000, "queries": 200}).splitlines() == [
        "h.csv has 2,000 hits of 200 queries, in 0.5 s",
        "1,234 images of test, tiny-emoji, head zero-shot, cosines",
    ]
