"""Marks of people are a table that --dataset reads, and trains on."""

import csv

import pytest

from clipret import (
    EvalConfig,
    ExtractConfig,
    FeatureCache,
    MergeConfig,
    TrainConfig,
    evaluate,
    extract,
    merge,
    train,
)
from clipret.errors import UsageError
from clipret.service.marks import Marks


@pytest.fixture
def cache(searchable):
    return FeatureCache(searchable.cache)


def rows_of(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_twenty_marks_are_extracted_added_trained_on_and_evaluated(searchable, cache, tmp_path):
    marks = Marks(tmp_path / "marks.csv", cache)
    train_images = cache.rows("image", split="train")[:20].tolist()
    for row in train_images:
        marks.mark(row, f"a drawing of {cache.image_ids[row]}", True)
    settings = {"root": searchable.root, "model": "tiny-emoji", "workers": 0, "device": "cpu"}
    extract(ExtractConfig(dataset=str(tmp_path / "marks.csv"), out=tmp_path / "marks.h5", **settings))
    marked = FeatureCache(tmp_path / "marks.h5")
    assert len(marked.rows("text", split="train")) == 20
    merge(MergeConfig(caches=(searchable.cache, tmp_path / "marks.h5"), out=tmp_path / "both.h5"))
    run = train(TrainConfig(cache=tmp_path / "both.h5", epochs=2, runs_dir=tmp_path / "runs"))["run"]
    results = evaluate(EvalConfig(head=run, resamples=0))["results"]
    assert set(results) == {"zero-shot", "trained"}
    both = FeatureCache(tmp_path / "both.h5")
    assert len(both.captions) == len(cache.captions) + 20


def test_an_image_stays_in_its_split(cache, tmp_path):
    marks = Marks(tmp_path / "marks.csv", cache)
    for split in ("train", "val", "test"):
        marks.mark(int(cache.rows("image", split=split)[0]), "words", True)
    assert [row["split"] for row in rows_of(tmp_path / "marks.csv")] == ["train", "val", "test"]


def test_what_is_wrong_is_kept_apart_and_a_mark_can_be_changed_and_taken_away(cache, tmp_path):
    marks = Marks(tmp_path / "marks.csv", cache)
    assert marks.mark(1, "a sun", True) == {"right": 1, "wrong": 0}
    assert marks.mark(1, "a  sun ", False) == {"right": 0, "wrong": 1}
    assert [row["caption"] for row in rows_of(tmp_path / "marks.wrong.csv")] == ["a sun"]
    assert rows_of(tmp_path / "marks.csv") == []
    assert marks.of(1, "a sun") is False
    assert marks.mark(1, "a sun", None) == {"right": 0, "wrong": 0}
    assert marks.of(1, "a sun") is None


def test_marks_go_on_where_they_were(cache, tmp_path):
    Marks(tmp_path / "marks.csv", cache).mark(2, "one", True)
    again = Marks(tmp_path / "marks.csv", cache)
    assert again.of(2, "one") is True
    assert again.mark(2, "two", True) == {"right": 2, "wrong": 0}


@pytest.mark.parametrize("caption", ["", "  ", "=1+1", "+x", "-x", "@x", "\x1b[31m", "x" * 501])
def test_words_that_no_table_should_have_are_refused(cache, tmp_path, caption):
    with pytest.raises(UsageError, match="these words cannot be kept as a caption"):
        Marks(tmp_path / "marks.csv", cache).mark(0, caption, True)
    assert not (tmp_path / "marks.csv").exists()


@pytest.mark.parametrize("row", [-1, 10**9])
def test_rows_that_are_not_there_are_refused(cache, tmp_path, row):
    with pytest.raises(UsageError) as caught:
        Marks(tmp_path / "marks.csv", cache).mark(row, "x", True)
    assert str(caught.value) == f"there is no image row {row}."


@pytest.mark.parametrize("content", [b"a,b\n1,2\n", b"\xff\xfe", b"", b"image,caption,split\nx,y\n"])
def test_other_files_are_not_written_over(cache, tmp_path, content):
    path = tmp_path / "marks.csv"
    path.write_bytes(content)
    with pytest.raises(UsageError, match="give another file"):
        Marks(path, cache)
    assert path.read_bytes() == content


def test_a_full_disk_leaves_the_marks_as_they_were(cache, tmp_path, monkeypatch):
    marks = Marks(tmp_path / "marks.csv", cache)
    marks.mark(0, "one", True)

    def full(*args, **settings):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("clipret.service.marks.csv.writer", full)
    with pytest.raises(OSError, match="No space left"):
        marks.mark(1, "two", True)
    assert marks.of(1, "two") is None
    assert [row["caption"] for row in rows_of(tmp_path / "marks.csv")] == ["one"]
