import dataclasses
import errno
import os

import h5py
import numpy as np
import pytest

from clipret import FeatureCache
from clipret.cache import assembling, check_rows, check_texts, open_writer
from clipret.cache.merging import merge
from clipret.config import MergeConfig
from clipret.errors import CacheError, CacheIncompleteError, CacheMismatchError
from tests.conftest import contents, digests_of, write_cache
from tests.helpers.caches import Disk, Killed, arrays, cut, join, write_shards


def made_of(name, *, images, dataset="made", captions_of=None, **changes):
    """Contents of a cache whose ids all contain its name; caption ids possibly another name."""
    annotated = contents(images=images)
    annotated = dataclasses.replace(
        annotated,
        image_ids=[f"{name}{row}" for row in annotated.image_ids],
        caption_ids=[f"{captions_of or name}{row}" for row in annotated.caption_ids],
        projections=contents().projections,
        captions=[f"{name} {text}" for text in annotated.captions],
        about=annotated.about | {"root": f"/{name}", "remarks": [f"remark of {name}"]},
    )
    annotated = dataclasses.replace(annotated, **changes)
    return dataclasses.replace(
        annotated, inputs=annotated.inputs | {"dataset": dataset, "annotation_sha256": annotated.annotation_sha256}
    )


@pytest.fixture
def caches(tmp_path):
    """Three finished caches, the second with a problem."""
    paths = [tmp_path / f"{name}.h5" for name in ("monday", "tuesday", "friday")]
    write_cache(paths[0], made_of("monday", images=30), seed=1)
    tuesday = made_of("tuesday", images=7)
    with open_writer(paths[1], tuesday) as writer:
        writer.write_images(0, features=np.ones((7, 24), dtype=np.float16), problems={2: "broken"})
        texts = len(tuesday.captions)
        writer.write_texts(0, features=np.full((texts, 16), 2, dtype=np.float16), tokens=np.full(texts, 9))
        writer.note_micro_batch("image", 8)
    friday = made_of("friday", images=12, dataset="other", about=contents().about | {"batch_size": 4, "root": "/f"})
    write_cache(paths[2], friday, seed=2)
    return paths


def test_rows_follow_each_other_with_everything_they_had(caches, tmp_path, monkeypatch):
    monkeypatch.setattr(assembling, "CHUNK", 5)
    reports = []
    result = merge(MergeConfig(tuple(caches), tmp_path / "week.h5"), on_progress=reports.append)
    week, parts = FeatureCache(tmp_path / "week.h5"), [FeatureCache(path) for path in caches]
    for name in ("image_features", "text_features", "image_splits", "image_states", "text_states", "tokens"):
        np.testing.assert_array_equal(getattr(week, name), np.concatenate([getattr(part, name) for part in parts]))
    for name in ("image_ids", "image_files", "captions", "caption_ids"):
        assert getattr(week, name) == [value for part in parts for value in getattr(part, name)]
    for side in ("image", "text"):
        np.testing.assert_array_equal(week.checksums[side], np.concatenate([part.checksums[side] for part in parts]))
    assert week.problems == {32: "broken"}
    owners = [week.image_ids[row] for row in week.caption_images]
    assert owners == [part.image_ids[row] for part in parts for row in part.caption_images]
    assert week.micro_batch == {"image": 8, "text": 0}
    assert check_texts(week) == []
    assert not any(len(rows) for side in ("image", "text") for rows in check_rows(week, side).values())
    assert {key: value for key, value in result.items() if key != "seconds"} == {
        "cache": str(tmp_path / "week.h5"),
        "fingerprint": week.fingerprint,
        "images": 49,
        "captions": len(week.captions),
        "problems": 1,
        "caches": [str(path) for path in caches],
        "remarks": [],
    }
    assert [(report.phase, report.done) for report in reports][:3] == [
        ("image rows", 5),
        ("image rows", 10),
        ("image rows", 15),
    ]
    assert [(report.done, report.total) for report in reports if report.phase == "text rows"][-1] == (
        len(week.captions),
        len(week.captions),
    )


def test_it_says_what_it_was_made_of(caches, tmp_path):
    merge(MergeConfig(tuple(caches), tmp_path / "week.h5"))
    week, first = FeatureCache(tmp_path / "week.h5"), FeatureCache(caches[0])
    assert week.inputs == first.inputs | {
        "dataset": "made+other",
        "annotation_sha256": week.annotations.annotation_sha256,
    }
    assert week.about["merged_from"] == [
        {"path": str(path), "fingerprint": FeatureCache(path).fingerprint} for path in caches
    ]
    assert week.about["command"] == "clipret merge " + " ".join(map(str, caches)) + f" --out {tmp_path / 'week.h5'}"
    assert week.about["batch_size"] == 4
    assert week.about["split_rule"] == "given"
    assert week.about["root"] == "/monday, /tuesday, /f"
    assert week.about["remarks"] == ["remark of monday", "remark of tuesday"]
    assert week.about["model"] == "made"


def test_a_merged_cache_can_be_merged_again(caches, tmp_path):
    merge(MergeConfig((caches[0], caches[2]), tmp_path / "some.h5"))
    merge(MergeConfig((tmp_path / "some.h5", caches[1]), tmp_path / "all.h5"))
    cache = FeatureCache(tmp_path / "all.h5")
    assert cache.inputs["dataset"] == "made+other"
    assert cache.problems == {44: "broken"}


def test_a_cache_that_leaves_its_features_in_shards_is_merged(caches, tmp_path):
    path, parts = tmp_path / "made.h5", cut(3)
    write_shards(path, parts)
    join(path, parts, merge=False)
    merge(MergeConfig((path, caches[1]), tmp_path / "out.h5"))
    cache = FeatureCache(tmp_path / "out.h5")
    assert not cache.segmented
    np.testing.assert_array_equal(cache.image_features[:60], FeatureCache(path).image_features[:])


def test_the_same_merge_again_changes_nothing_and_another_is_refused(caches, tmp_path):
    out = tmp_path / "week.h5"
    merge(MergeConfig(tuple(caches), out))
    before = out.read_bytes()
    assert merge(MergeConfig(tuple(caches), out))["images"] == 49
    assert out.read_bytes() == before
    with pytest.raises(CacheMismatchError, match=r"week.h5 was made from other inputs .*dataset: it has 'made\+other'"):
        merge(MergeConfig(tuple(caches[:2]), out))
    assert out.read_bytes() == before


def replace(path, annotated):
    path.unlink()
    write_cache(path, annotated)


def other_heads(path):
    heads = contents().projections | {"text/weight": np.zeros((16, 12), dtype=np.float32)}
    replace(path, made_of("tuesday", images=7, projections=heads))


def change_a_feature(path):
    with h5py.File(path, "r+") as file:
        file["text/features"][3, 0] += 1


@pytest.mark.parametrize(
    ("spoil", "error", "message"),
    [
        (
            lambda path: replace(path, made_of("tuesday", images=7, inputs=contents().inputs | {"precision": "fp16"})),
            CacheMismatchError,
            r"monday.h5 and .*tuesday.h5 were not made in the same way \(precision: 'float32' and 'fp16'\); extract",
        ),
        (other_heads, CacheMismatchError, r"were not made in the same way \(the encoder's projections\)"),
        (
            lambda path: replace(path, made_of("monday", images=7)),
            CacheError,
            r"7 images of .*tuesday.h5 are in .*monday.h5 too, by their ids: monday100, monday101, monday102, "
            r"monday103, monday104, \.\.\.; expected caches of different images",
        ),
        (
            lambda path: replace(path, made_of("tuesday", images=3, captions_of="monday")),
            CacheError,
            r"10 captions of .*tuesday.h5 are in .*monday.h5 too, by their ids: monday900, .*different captions",
        ),
        (
            change_a_feature,
            CacheError,
            r"tuesday.h5: 1 text rows are not what was written to them: 3; the file is damaged",
        ),
        (lambda path: path.unlink(), CacheError, "there is no cache at .*tuesday.h5"),
    ],
)
def test_caches_that_do_not_go_together_are_refused(spoil, error, message, caches, tmp_path):
    spoil(caches[1])
    with pytest.raises(error, match=message):
        merge(MergeConfig(tuple(caches), tmp_path / "week.h5"))
    assert not (tmp_path / "week.h5").exists()
    assert not (tmp_path / "week.h5.new").exists()


def test_captions_of_different_data_sets_may_have_the_same_ids(caches, tmp_path):
    annotated = made_of("friday", images=3, dataset="other", captions_of="monday")
    replace(caches[2], annotated)
    assert merge(MergeConfig(tuple(caches), tmp_path / "week.h5"))["images"] == 40


def test_a_cache_that_is_not_finished_is_refused(caches, tmp_path):
    with open_writer(tmp_path / "begun.h5", made_of("begun", images=5)):
        pass
    with pytest.raises(CacheIncompleteError, match=r"begun.h5 is incomplete: 5 of 5 images"):
        merge(MergeConfig((caches[0], tmp_path / "begun.h5"), tmp_path / "out.h5"))


def test_a_cache_is_not_merged_into_itself(caches, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CacheError, match=r"monday.h5 is one of the caches to merge; give another --out"):
        merge(MergeConfig(tuple(caches), "monday.h5"))


@pytest.mark.ci
@pytest.mark.parametrize("error", [Killed, OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))])
def test_a_merge_that_is_killed_or_finds_no_room_leaves_no_half_cache(error, caches, tmp_path, monkeypatch):
    out = tmp_path / "week.h5"
    with monkeypatch.context() as patch:
        disk = Disk(patch)
        merge(MergeConfig(tuple(caches), out))
    expected = arrays(out)
    out.unlink()
    assert disk.steps > 20
    for moment in range(disk.steps):
        with monkeypatch.context() as patch:
            Disk(patch, stop_at=moment, error=error)
            with pytest.raises(Killed if error is Killed else CacheError):
                merge(MergeConfig(tuple(caches), out))
        assert not out.exists()
    merge(MergeConfig(tuple(caches), out))
    assert arrays(out) == expected


def of_bytes(path, names, *, files, splits):
    """A cache of images of these ids; equal numbers are equal files."""
    annotated = made_of(path.stem, images=len(names), image_ids=names, image_files=[f"{name}.jpg" for name in names])
    annotated = dataclasses.replace(annotated, image_splits=np.array(splits, dtype=np.uint8), about=contents().about)
    annotated = dataclasses.replace(
        annotated, inputs=annotated.inputs | {"annotation_sha256": annotated.annotation_sha256}
    )
    return write_cache(path, annotated, digests=digests_of(map(str, files)))


def refusal(*caches, out) -> str:
    with pytest.raises(CacheError) as caught:
        merge(MergeConfig(caches, out))
    assert "\n" not in str(caught.value)
    assert not out.exists()
    return str(caught.value)


def test_an_image_that_two_caches_hold_in_different_splits_is_refused_whatever_it_is_called(tmp_path):
    one = of_bytes(tmp_path / "one.h5", ["a", "b", "c"], files=[1, 2, 3], splits=[0, 0, 2])
    two = of_bytes(tmp_path / "two.h5", ["x", "y", "z"], files=[9, 2, 3], splits=[0, 2, 2])
    assert refusal(one, two, out=tmp_path / "all.h5") == (
        f"1 images of {two} are in {one} too, byte for byte, in another split: y.jpg (test) is b.jpg (train); heads "
        f"would be measured on images that they were trained on. Leave them out of one of the data sets, or give them "
        f"one split, and extract it again."
    )


def test_images_that_two_caches_hold_in_the_same_split_are_remarked(tmp_path):
    one = of_bytes(tmp_path / "one.h5", ["a", "b", "c"], files=[1, 2, 3], splits=[0, 0, 2])
    two = of_bytes(tmp_path / "two.h5", ["x", "y", "z"], files=[1, 8, 3], splits=[0, 2, 2])
    remark = f"2 images of {two} are in {one} too, byte for byte, in the same split: x.jpg, z.jpg"
    assert merge(MergeConfig((one, two), tmp_path / "all.h5"))["remarks"] == [remark]
    merged = FeatureCache(tmp_path / "all.h5")
    assert merged.about["remarks"] == [remark]
    np.testing.assert_array_equal(merged.image_digests, digests_of("123183"))


def test_other_files_under_the_same_ids_are_named_as_such(tmp_path):
    one = of_bytes(tmp_path / "one.h5", ["0001", "0002"], files=[1, 2], splits=[0, 0])
    two = of_bytes(tmp_path / "two.h5", ["0001", "0002"], files=[3, 2], splits=[0, 0])
    assert refusal(one, two, out=tmp_path / "all.h5") == (
        f"1 images of {two} have the ids of other files in {one}: 0001; an id stands for one image in a cache. Give "
        f"one of the tables other ids, such as by --columns id=COLUMN, and extract it again."
    )


def test_the_same_files_under_the_same_ids_are_refused_as_the_same_images(tmp_path):
    one = of_bytes(tmp_path / "one.h5", ["0001", "0002"], files=[1, 2], splits=[0, 0])
    two = of_bytes(tmp_path / "two.h5", ["0001", "0003"], files=[1, 2], splits=[0, 0])
    assert refusal(one, two, out=tmp_path / "all.h5") == (
        f"1 images of {two} are in {one} too, by their ids: 0001; expected caches of different images."
    )
