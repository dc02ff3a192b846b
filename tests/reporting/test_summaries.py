import io

import pytest
from rich.console import Console

from clipret.cli import progress_bars as display
from clipret.cli.progress_bars import ProgressDisplay
from clipret.machine.progress import Progress
from clipret.reporting.summaries import extraction_summary, training_summary


@pytest.fixture
def clock(monkeypatch):
    class Clock:
        now = 100.0

        def monotonic(self):
            return self.now

    clock = Clock()
    monkeypatch.setattr(display, "time", clock)
    return clock


def plain_console():
    return Console(file=io.StringIO(), width=100)


def test_without_a_terminal_progress_is_a_line_now_and_then_and_at_the_end(clock):
    console = plain_console()
    with ProgressDisplay(console, quiet=False) as on_progress:
        for done in range(0, 101, 4):
            on_progress(Progress("images", done, 100))
            clock.now += 1
    assert console.file.getvalue().splitlines() == [
        "images 40/100, 4.0/s, 15 s left",
        "images 80/100, 4.0/s, 5 s left",
        "images 100/100, 4.0/s",
    ]


def test_rows_of_an_earlier_extraction_do_not_count_into_the_rate(clock):
    console = plain_console()
    with ProgressDisplay(console, quiet=False) as on_progress:
        on_progress(Progress("images", 90, 100))
        clock.now += 2
        on_progress(Progress("images", 100, 100, {"unusable": 3}))
    assert console.file.getvalue() == "images 100/100, 5.0/s  unusable 3\n"


def test_bytes_are_shown_in_units_that_people_read(clock):
    console = plain_console()
    with ProgressDisplay(console, quiet=False) as on_progress:
        on_progress(Progress("download train2017.zip", 0, 19_336_861_798, unit="bytes"))
        clock.now += 100
        on_progress(Progress("download train2017.zip", 9_668_430_899, 19_336_861_798, unit="bytes"))
    assert console.file.getvalue() == "download train2017.zip 9.7 GB/19.3 GB, 96.7 MB/s, 100 s left\n"


def test_on_a_terminal_progress_is_a_bar_with_rate_and_time_left(clock):
    console = Console(file=io.StringIO(), width=120, force_terminal=True, color_system=None)
    with ProgressDisplay(console, quiet=False) as on_progress:
        on_progress(Progress("epochs", 0, 30))
        clock.now += 1
        on_progress(Progress("epochs", 15, 30, {"loss": 0.25}))
    shown = console.file.getvalue()
    assert "epochs" in shown
    assert "15/30" in shown
    assert "15.0/s" in shown
    assert "loss 0.2500" in shown


def test_quiet_shows_nothing(clock):
    console = Console(file=io.StringIO(), force_terminal=True)
    with ProgressDisplay(console, quiet=True) as on_progress:
        on_progress(Progress("epochs", 1, 1))
    assert console.file.getvalue() == ""


EXTRACTED = {
    "cache": "c.h5",
    "images": 1000,
    "captions": 2000,
    "problems": 0,
    "missing": 0,
    "remarks": [],
    "single_colour": {"images": 0, "first": None},
    "cross_split_copies": [],
    "extracted_images": 1000,
    "extracted_captions": 2000,
    "batch_size": 128,
    "seconds": 2.5,
    "copied": {"image": 0, "text": 0},
    "taps": {},
    "micro_batch": {"image": 0, "text": 0},
    "decoding": None,
    "processes": 1,
}


def test_details_are_figures_or_texts(clock):
    console = plain_console()
    with ProgressDisplay(console, quiet=False) as on_progress:
        on_progress(Progress("images", 5, 5, {"unusable": 1234, "waiting for images": "41%", "loss": 0.25}))
    assert console.file.getvalue() == "images 5/5  unusable 1,234  waiting for images 41%  loss 0.2500\n"


def test_an_extraction_is_summed_up():
    result = {**EXTRACTED, "problems": 2, "remarks": ["3 empty captions were left out", "1 image has no caption"]}
    assert extraction_summary(result, batch_size=64).splitlines() == [
        "c.h5: 1,000 images and 2,000 captions in 2.5 s.",
        "Note: 3 empty captions were left out.",
        "Note: 1 image has no caption.",
        "2 images could not be read; clipret info c.h5 --problems lists them.",
        "The cache was begun with --batch-size 128, which was used again.",
        "Next: clipret train --cache c.h5",
    ]


def test_an_extraction_that_was_gone_on_with_tells_what_is_new():
    result = {**EXTRACTED, "extracted_images": 0, "extracted_captions": 500}
    first = extraction_summary(result, batch_size=None).splitlines()[0]
    assert first == "c.h5: 1,000 images and 2,000 captions, 0 and 500 of them now, in 2.5 s."


def test_an_extraction_with_nothing_to_do_still_tells_what_is_wrong():
    done = {**EXTRACTED, "extracted_images": 0, "extracted_captions": 0, "cache": "my caches/c.h5"}
    following = "Next: clipret train --cache 'my caches/c.h5'"
    assert extraction_summary(done, batch_size=64).splitlines() == [
        "my caches/c.h5 was complete already; nothing to do.",
        following,
    ]
    summary = extraction_summary({**done, "problems": 1, "missing": 1, "remarks": ["a"]}, batch_size=64)
    assert summary.splitlines() == [
        "my caches/c.h5 was complete already; nothing to do.",
        "Note: a.",
        "1 image could not be read, 1 of them not found; clipret info 'my caches/c.h5' --problems lists them.",
        following,
    ]


def test_an_extraction_tells_of_copies_between_splits_and_of_images_of_one_colour():
    result = EXTRACTED | {
        "cross_split_copies": [
            {"split": "test", "images": 1526, "copies": 76, "of": "val"},
            {"split": "test", "images": 1526, "copies": 1, "of": "train"},
            {"split": "restval", "images": 9, "copies": 2, "of": "train"},
        ],
        "single_colour": {"images": 24, "first": "im0.png"},
    }
    assert extraction_summary(result, batch_size=None).splitlines()[1:-1] == [
        "76 of the 1,526 test images equal images of val, byte for byte.",
        "1 of the 1,526 test images equals an image of train, byte for byte. Train with --drop-cross-split-duplicates "
        "to leave those of train out.",
        "2 of the 9 restval images equal images of train, byte for byte.",
        "24 images are of a single colour to the encoder, such as im0.png; 16-bit and float images become all white or "
        "all black in clip's conversion.",
    ]


def test_an_extraction_tells_how_its_features_came_about_where_that_is_not_the_usual_way():
    cosines = {"images": 16, "cosine": {"mean": 0.99991, "min": 0.9}, "centred_cosine": {"mean": 0.9971, "min": 0.9}}
    result = {
        **(EXTRACTED | {"remarks": [], "problems": 0}),
        "copied": {"image": 2, "text": 1234},
        "micro_batch": {"image": 8, "text": 0},
        "decoding": cosines,
        "processes": 4,
    }
    assert extraction_summary(result, batch_size=None).splitlines() == [
        "c.h5: 1,000 images and 2,000 captions by 4 processes, 1,000 and 2,000 of them now by the first, in 2.5 s.",
        "2 images and 1,234 captions are equal to others, and were encoded with them.",
        "Out of memory: images were encoded 8 at a time, which may change the last bits of the features.",
        "Decoded fast: cosine to exact decoding 0.9999, centred 0.9971, on 16 images.",
        "Next: clipret train --cache c.h5",
    ]


def test_a_training_is_summed_up_also_without_val():
    result = {
        "run": "runs/0001-margin-linear",
        "steps": 10,
        "train_images": 100,
        "seconds": 1.0,
        "kept_epoch": 3,
        "val_rsum": 4.5,
        "zero_shot_val_rsum": 4.25,
        "features": "device",
        "remarks": [],
    }
    assert "kept epoch 3, val rsum 4.500 (zero-shot 4.250)" in training_summary(result, evaluation="clipret eval")
    learned = {**result, "scalars": {"log_scale": 2.6592600, "bias": -10.2}}
    assert "; scale 14.3 (temperature 0.07), bias -10.2." in training_summary(learned, evaluation="clipret eval")
    unchosen = training_summary({**result, "val_rsum": None}, evaluation="clipret eval")
    assert "kept the last epoch, 3: the cache has no val split" in unchosen
    noted = {**result, "features": "disk", "remarks": ["it was cold"]}
    more = training_summary(noted, evaluation="clipret eval --head a").splitlines()
    assert more[1:] == [
        "Note: it was cold.",
        "Features were read from the cache's file, batch by batch.",
        "Next: clipret eval --head a",
    ]
