from clipret.reporting.data import check_sheets, download_summary
from tests.helpers.drawing import drawn

CHECKED = {
    "dataset": "shop[1]",
    "root": "photos",
    "split_rule": "given",
    "images": 1200,
    "captions": 2400,
    "splits": {"train": {"images": 1000, "captions": 2000}, "test": {"images": 200, "captions": 400}},
    "per_image": {"min": 0, "mean": 2.0, "max": 5},
    "words": {
        "min": 1,
        "median": 6.5,
        "max": 12,
        "histogram": [{"words": "1-5", "captions": 600}, {"words": "6-10", "captions": 1200}],
    },
    "too_long": {"captions": 3, "context_length": 77, "first": ["7"]},
    "missing": {"images": 2, "first": ["a.jpg", "b.jpg"]},
    "single_colour": {"images": 0, "first": None},
    "remarks": ["left out 1 empty caption, of [x].jpg"],
}
FETCHED = {
    "dataset": "coco",
    "root": "my data",
    "files": [
        {"name": "val2017.zip", "bytes": 815_585_330, "state": "resumed", "unpacked": 5000},
        {"name": "annotations.zip", "bytes": 252_907_541, "state": "already there", "unpacked": 0},
    ],
    "remarks": [],
    "instructions": [],
}


def test_a_check_says_in_words_that_all_images_are_there_and_have_equally_many_captions():
    per_image = {"min": 2, "mean": 2.0, "max": 2}
    whole = drawn(check_sheets({**CHECKED, "missing": {"images": 0, "first": []}, "per_image": per_image}))
    assert "1,200; all are there" in whole
    assert "; 2 an image" in whole
    assert "1,200; 1 is not there" in drawn(check_sheets({**CHECKED, "missing": {"images": 1, "first": ["a.jpg"]}}))


def test_a_check_shows_counts_remarks_and_a_bar_a_bin():
    text = drawn(check_sheets(CHECKED))
    assert "shop[1]" in text
    assert "1,200; 2 are not there" in text
    assert "test: 200 images, 400 captions" in text
    assert "3 captions exceed 77 tokens" in text
    assert "left out 1 empty caption, of [x].jpg" in text
    assert "single colour" not in text
    bars = {line.split()[0]: line.count("█") for line in text.splitlines() if "█" in line}
    assert bars == {"1-5": 20, "6-10": 40}


def test_a_check_shows_images_that_become_a_single_colour():
    text = drawn(check_sheets(CHECKED | {"single_colour": {"images": 1, "first": "a[1].png"}}), width=200)
    assert (
        "1 image is of a single colour to the encoder, such as a[1].png; 16-bit and float images become all white or "
        "all black in clip's conversion"
    ) in text


def test_a_download_is_summed_up_with_what_to_do_next():
    assert download_summary(FETCHED).splitlines() == [
        "val2017.zip: 815.6 MB, resumed, 5,000 files unpacked",
        "annotations.zip: 252.9 MB, already there",
        "coco is complete in my data.",
        "Next: clipret check --dataset coco --root 'my data'",
    ]


def test_a_download_that_had_nothing_to_do_says_so():
    done = {**FETCHED, "files": FETCHED["files"][1:], "remarks": ["two files were gone"]}
    assert download_summary(done).splitlines()[1:3] == [
        "Note: two files were gone.",
        "coco is complete in my data; nothing to do.",
    ]


def test_instructions_stand_in_the_place_of_the_next_step():
    assert download_summary({**FETCHED, "files": [], "instructions": ["first", "then"]}) == "first\nthen"
