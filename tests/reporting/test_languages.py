from clipret.reporting.languages import language_sheets
from tests.helpers.drawing import drawn

CACHE = {"dataset": "xtd10", "model": "a\x1b[31m"}


def entry(language, t2i, i2t, remarks=()):
    heads = {"zero-shot": (t2i, i2t), "trained": (t2i + 0.1, i2t + 0.1)}
    return {
        "cache": CACHE,
        "protocol": {"name": f"xtd10:{language}", "split": "test", "t2i": {"gallery": 1_000}, "remarks": list(remarks)},
        "results": {head: {"t2i": {"R@1": a}, "i2t": {"R@1": b}} for head, (a, b) in heads.items()},
    }


def report(*entries, languages):
    mean = {"protocol": "xtd10", "languages": languages, "results": entry("x", 0.3, 0.4)["results"]}
    return {**entries[0], "also": list(entries[1:]), "languages": [mean]}


def test_a_language_is_a_row_and_the_mean_comes_last():
    made = report(entry("de", 0.2, 0.3, ["2 images"]), entry("en", 0.4, 0.5, ["2 images"]), languages=["de", "en"])
    (sheet,) = language_sheets(made, names=("R@1", "rsum"))
    assert [column.name for column in sheet.columns] == [
        "",
        "zero-shot t2i R@1",
        "zero-shot i2t R@1",
        "trained t2i R@1",
        "trained i2t R@1",
    ]
    rows = [[cell.value if isinstance(cell.value, str) else round(cell.value, 6) for cell in row] for row in sheet.rows]
    assert rows == [["de", 20, 30, 30, 40], ["en", 40, 50, 50, 60], ["mean", 30, 40, 40, 50]]
    assert sheet.notes[-1] == "not comparable with published figures: 2 images"
    assert "by language" in drawn((sheet,))


def test_a_report_of_one_language_has_no_such_table():
    assert language_sheets(entry("de", 0.2, 0.3), names=("R@1",)) == ()
