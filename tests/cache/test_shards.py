"""Several processes write one shard each; joined, they equal the cache of one process."""

import errno
import os
import shutil

import h5py
import numpy as np
import pytest

from clipret.cache import (
    DONE,
    PENDING,
    FeatureCache,
    Part,
    access,
    assembling,
    discard_shards,
    found_about,
    found_parts,
    open_writer,
    raw,
    shard_path,
)
from clipret.cache.mapping import SegmentedArray
from clipret.cache.opening import opened_file
from clipret.errors import (
    CacheDamagedError,
    CacheError,
    CacheFormatError,
    CacheIncompleteError,
    CacheLockedError,
    CacheMismatchError,
)
from tests.conftest import contents
from tests.helpers.caches import MADE, Disk, Killed, arrays, cut, fill, join, tampered, write_shards


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    path = tmp_path_factory.mktemp("whole") / "made.h5"
    with open_writer(path, MADE) as writer:
        fill(writer)
    return arrays(path)


@pytest.mark.parametrize("merge", [True, False])
@pytest.mark.parametrize("count", [1, 2, 4, 7])
def test_joined_shards_are_byte_for_byte_the_cache_of_one_process(count, merge, whole, tmp_path, monkeypatch):
    """Read with plain h5py, whether the features are in the cache or in the shards that it refers to."""
    monkeypatch.setattr(assembling, "CHUNK", 13)
    path, parts = tmp_path / "made.h5", cut(count)
    write_shards(path, parts)
    if count > 1:
        states = [h5py.File(shard_path(path, part))["image/state"][:] for part in parts]
        assert (np.concatenate(states) == PENDING).any(), "copies of another part's rows are left to the join"
    join(path, parts, merge=merge)
    assert arrays(path) == whole
    assert FeatureCache(path).segmented is not merge
    assert found_parts(path) == (set() if merge else {count})
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["made.h5"] + ([] if merge else ["made.h5.shards"])


def test_a_shard_knows_its_rows(tmp_path):
    path, parts = tmp_path / "made.h5", cut(3)
    assert (found_parts(path), found_about(path)) == (set(), None)
    with open_writer(path, MADE, part=parts[1]) as writer:
        assert writer.rows == {"image": range(20, 40), "text": parts[1].rows["text"]}
        assert writer.pending("image").tolist() == list(range(20, 40))
        writer.write_images(np.array([39, 25]), features=np.ones((2, 24), dtype=np.float16), problems={1: "broken"})
        assert writer.problems == {25: "broken"}
        assert writer.states["image"].tolist() == [0] * 5 + [2] + [0] * 13 + [1]
    assert shard_path(path, parts[1]) == tmp_path / "made.h5.shards" / "1-of-3.h5"
    assert (found_parts(path), found_about(path)) == ({3}, MADE.about)
    with open_writer(path, MADE, part=parts[1]) as writer:
        assert writer.problems == {25: "broken"}
        assert writer.pending("image").tolist() == [*range(20, 25), *range(26, 39)]


def test_the_smallest_micro_batch_of_all_shards_is_kept(tmp_path):
    path, parts = tmp_path / "made.h5", cut(3)
    write_shards(path, parts)
    for part, size in zip(parts, (0, 32, 8), strict=True):
        with open_writer(path, MADE, part=part) as writer:
            if size:
                writer.note_micro_batch("text", size)
    join(path, parts)
    assert FeatureCache(path).micro_batch == {"image": 0, "text": 8}


@pytest.mark.parametrize("merge", [True, pytest.param(False, marks=pytest.mark.ci)])
@pytest.mark.parametrize(
    "error", [pytest.param(Killed, marks=pytest.mark.ci), OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))]
)
def test_a_join_that_is_killed_or_finds_no_room_is_done_by_the_next(merge, error, whole, tmp_path, monkeypatch):
    path, parts = tmp_path / "made.h5", cut(3)
    write_shards(path, parts)
    shutil.copytree(tmp_path, tmp_path / "saved")
    with monkeypatch.context() as patch:
        disk = Disk(patch)
        join(path, parts, merge=merge)
    for moment in range(disk.steps):
        path.unlink(missing_ok=True)
        shutil.rmtree(f"{path}.shards", ignore_errors=True)
        shutil.copytree(tmp_path / "saved" / "made.h5.shards", f"{path}.shards")
        with monkeypatch.context() as patch:
            Disk(patch, stop_at=moment, torn=True, error=error)
            with pytest.raises(Killed if error is Killed else CacheError):
                join(path, parts, merge=merge)
        assert not path.exists() or arrays(path) == whole, "no half cache"
        join(path, parts, merge=merge)
        assert arrays(path) == whole


def test_shards_that_a_killed_join_left_next_to_a_complete_cache_are_removed(whole, tmp_path, monkeypatch):
    path, parts = tmp_path / "made.h5", cut(2)
    write_shards(path, parts)
    with monkeypatch.context() as patch:
        patch.setattr("clipret.cache.joining.discard_shards", lambda path: None)
        join(path, parts)
    assert found_parts(path) == {2}
    shard_path(path, parts[0]).unlink()
    join(path, parts)
    assert found_parts(path) == set()
    assert arrays(path) == whole


def test_features_that_were_left_in_shards_are_brought_in_when_that_is_asked_for(whole, tmp_path):
    path, parts = tmp_path / "made.h5", cut(3)
    write_shards(path, parts)
    join(path, parts, merge=False)
    discard_shards(path)
    assert found_parts(path) == {3}, "they are the cache's own"
    join(path, parts, merge=False)
    join(path, parts)
    assert arrays(path) == whole
    assert found_parts(path) == set()


def test_a_cache_and_its_shards_move_together(whole, tmp_path):
    folder = tmp_path / "50%bc"
    path, parts = folder / "100%.h5", cut(3)
    write_shards(path, parts)
    join(path, parts, merge=False)
    folder.rename(tmp_path / "moved")
    assert arrays(tmp_path / "moved" / "100%.h5") == whole
    assert FeatureCache(tmp_path / "moved" / "100%.h5").image_features.shape == (60, 24)


@pytest.fixture
def left(tmp_path):
    """A cache with its features in three shards, and one that holds them itself."""
    path, parts = tmp_path / "made.h5", cut(3)
    write_shards(path, parts)
    join(path, parts, merge=False)
    with open_writer(tmp_path / "one.h5", MADE) as writer:
        fill(writer)
    return FeatureCache(path), FeatureCache(tmp_path / "one.h5")


@pytest.mark.parametrize(
    "key",
    [
        0,
        59,
        -1,
        np.int64(25),
        slice(None),
        slice(15, 45),
        slice(50, 10, -3),
        slice(7, 7),
        [41, 2, 2, -60],
        np.array([], dtype=np.int64),
        np.arange(60) % 3 == 0,
        np.zeros(60, dtype=bool),
    ],
    ids=str,
)
def test_features_in_shards_are_indexed_like_one_array(key, left):
    array, expected = left[0].image_features, left[1].image_features
    assert isinstance(array, SegmentedArray)
    assert (array.shape, array.dtype, array.ndim, len(array)) == ((60, 24), np.float16, 2, 60)
    np.testing.assert_array_equal(array[key], expected[key])
    assert array[key].dtype == np.float16


def test_features_in_shards_convert_to_one_array(left):
    array, expected = left[0].text_features, left[1].text_features
    np.testing.assert_array_equal(np.asarray(array), expected)
    assert np.asarray(array, dtype=np.float32).dtype == np.float32
    np.testing.assert_array_equal(left[0].read("text", np.array([3, 100])), expected[[3, 100]])
    with pytest.raises(ValueError, match="copying"):
        np.asarray(array, copy=False)
    array = left[0].image_features
    for key, message in ((60, "out of range"), (np.ones(59, dtype=bool), "59"), ([61], "out of bounds")):
        with pytest.raises(IndexError, match=message):
            array[key]


def test_problems_of_a_cache_in_shards_can_be_tried_again(tmp_path):
    path, parts = tmp_path / "made.h5", cut(3)
    write_shards(path, parts)
    join(path, parts, merge=False)
    with open_writer(path, MADE) as writer:
        writer.forget_problems()
        assert writer.pending("image").tolist() == [3, 17, 30, 41]
        writer.write_images(writer.pending("image"), features=np.full((4, 24), 7, dtype=np.float16), problems={})
    cache = FeatureCache(path)
    assert (cache.image_features[[3, 17, 30, 41]] == 7).all()
    assert (cache.image_states == DONE).all()
    join(path, parts)
    assert (FeatureCache(path).image_features[[3, 17, 30, 41]] == 7).all()


def remove(path):
    path.unlink()


def cut_short(path):
    path.write_bytes(path.read_bytes()[:3000])


def other_shape(path):
    with tampered(path) as file:
        del file["image/features"]
        file["image/features"] = np.zeros((20, 12), dtype=np.float16)


@pytest.mark.parametrize(
    ("spoil", "error", "message"),
    [
        (
            remove,
            CacheError,
            r"1-of-3.h5 is missing: it holds rows 20 to 39 of /image/features of .*made.h5; put it back",
        ),
        (
            cut_short,
            CacheDamagedError,
            r"1-of-3.h5: its first block is not what was written \(checksum\); the cache is",
        ),
        (other_shape, CacheFormatError, r"1-of-3.h5 does not match .*made.h5; delete both"),
    ],
)
def test_a_shard_that_is_missing_or_spoilt_is_named(spoil, error, message, left, tmp_path):
    spoil(tmp_path / "made.h5.shards" / "1-of-3.h5")
    with pytest.raises(error, match=message):
        FeatureCache(tmp_path / "made.h5")


def test_a_join_waits_for_all_shards_and_rows(tmp_path):
    path, parts = tmp_path / "made.h5", cut(3)
    write_shards(path, parts[:2])
    message = r"made.h5 is incomplete: its part .*2-of-3.h5 is missing; complete it with: clipret extract --dataset"
    with pytest.raises(CacheIncompleteError, match=message):
        join(path, parts)
    with open_writer(path, MADE, part=parts[2]):
        pass
    # Row 59 is a copy of a row in another part.
    with pytest.raises(CacheIncompleteError, match=r"incomplete: 19 of 60 images and 52 of 155 captions are still"):
        join(path, parts, merge=False)
    assert not path.exists()
    write_shards(path, parts)
    join(path, parts)


def test_shards_of_other_inputs_rows_or_batch_sizes_are_not_joined(tmp_path):
    path, parts = tmp_path / "made.h5", cut(2)
    write_shards(path, parts)
    other = contents(inputs={**MADE.inputs, "background": "white"})
    with pytest.raises(CacheMismatchError, match=r"0-of-2.h5 was made from other inputs .*background: it has 'clip'"):
        join(path, parts, made=other)
    moved = [
        Part(0, 2, parts[0].rows | {"image": range(32)}),
        Part(1, 2, parts[1].rows | {"image": range(32, 60)}),
    ]
    message = r"0-of-2.h5 holds the image rows 0 to 29, asked for 0 to 31; go on with the batch size it was begun with"
    with pytest.raises(CacheMismatchError, match=message):
        join(path, moved)
    shard_path(path, parts[1]).unlink()
    write_shards(path, parts[1:], made=contents(about=MADE.about | {"batch_size": 64}))
    with pytest.raises(
        CacheMismatchError, match="were made with batch sizes 16, 64, which changes the last bits of the features"
    ):
        join(path, parts)


def test_a_file_that_is_not_a_shard_is_a_one_line_error(tmp_path):
    path, parts = tmp_path / "made.h5", cut(2)
    shard = shard_path(path, parts[0])
    shard.parent.mkdir()
    shard.write_text("hello")
    with pytest.raises(CacheFormatError, match=r"0-of-2.h5 is not an HDF5 file"):
        write_shards(path, parts)
    shard.unlink()
    with open_writer(shard, MADE):
        pass
    with pytest.raises(CacheFormatError, match=r"0-of-2.h5 is not a shard of this clipret \(shard 1\)"):
        write_shards(path, parts)


@pytest.mark.parametrize("merge", [True, False])
def test_rows_that_are_not_what_was_written_are_not_joined(merge, tmp_path):
    path, parts = tmp_path / "made.h5", cut(3)
    write_shards(path, parts)
    with h5py.File(shard_path(path, parts[1]), "r+") as file:
        file["image/features"][[4, 9], 3] += 1
    with pytest.raises(CacheError) as caught:
        join(path, parts, merge=merge)
    assert str(caught.value) == (
        f"{shard_path(path, parts[1])}: 2 image rows are not what was written to them: 24, 29; the file is damaged: "
        f"delete it and extract again with: clipret extract --dataset made"
    )
    assert not path.exists()
    assert not path.with_name("made.h5.new").exists()


def test_a_shard_that_is_being_written_is_not_joined(tmp_path, monkeypatch):
    monkeypatch.setattr(access, "_LOCK_SECONDS", 0.1)
    path, parts = tmp_path / "made.h5", cut(2)
    write_shards(path, parts)
    with open_writer(path, MADE, part=parts[1]), pytest.raises(CacheLockedError, match=r"is writing .*1-of-2.h5"):
        join(path, parts)


def test_a_cache_in_shards_is_written_where_its_rows_are(tmp_path):
    """The raw file finds rows of any order in the shard that holds them."""
    path, parts = tmp_path / "made.h5", cut(4)
    write_shards(path, parts)
    join(path, parts, merge=False)
    with opened_file(path) as source:
        place = source.places["image/features"]
        features = source.file["image/features"][:]
    rows = np.array([59, 0, 14, 15, 16, 29, 30, 3])
    handle = raw.RawFile(path, {"features": place})
    np.testing.assert_array_equal(handle.read("features", rows), features[rows])
    handle.close()
    assert [span.stop // place.row_bytes for _, _, span in place.pieces(rows)] == [1, 2, 3, 5, 6, 7, 8]
