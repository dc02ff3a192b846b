import dataclasses
import json
from pathlib import Path

import h5py
import numpy as np
import pytest
from filelock import FileLock

from clipret.cache import DONE, UNUSABLE, FeatureCache, access, open_writer
from clipret.cache.seal import BLOCK, write_seal
from clipret.errors import (
    CacheDamagedError,
    CacheError,
    CacheFormatError,
    CacheIncompleteError,
    CacheLockedError,
    CacheMismatchError,
)
from tests.conftest import contents, write_cache
from tests.helpers import system


def open_and_close(path, stored):
    with open_writer(path, stored):
        pass


def test_what_is_written_is_read(tmp_path):
    stored = contents(bias=True)
    path = write_cache(tmp_path / "made.h5", stored)
    cache = FeatureCache(path)
    assert (cache.image_ids, cache.image_files, cache.captions) == (
        stored.image_ids,
        stored.image_files,
        stored.captions,
    )
    np.testing.assert_array_equal(cache.caption_images, stored.caption_images)
    np.testing.assert_array_equal(cache.image_splits, stored.image_splits)
    assert cache.image_features.shape == (60, 24)
    assert cache.image_features.dtype == np.float16
    assert cache.fingerprint == stored.fingerprint
    assert "root" not in stored.about
    assert (cache.inputs, cache.about) == (stored.inputs, {"root": "."} | stored.about)
    assert set(cache.projections) == {"image/weight", "image/bias", "text/weight", "text/bias", "logit_scale"}
    for name, values in stored.projections.items():
        np.testing.assert_array_equal(cache.projections[name], values)
    assert (cache.tokens == 5).all()


def test_captions_keep_every_character(tmp_path):
    captions = ["Côte d’Ivoire 🇨🇮", "", "a\nb\x7f", "字" * 500]
    stored = contents(images=4, captions=captions, caption_ids=[*"abcd"], caption_images=np.arange(4))
    assert FeatureCache(write_cache(tmp_path / "made.h5", stored)).captions == captions


def test_structure_is_on_disk_before_the_first_feature(tmp_path):
    """Invariant 1: once a feature is written the file has its final length and only raw data changes."""
    path = tmp_path / "made.h5"
    with open_writer(path, contents()) as writer:
        before = path.read_bytes()
        writer.write_images(16, features=np.ones((16, 24), dtype=np.float16), problems={3: "broken"})
        writer.note_micro_batch("image", 8)
        writer.sync()
        after = path.read_bytes()
        assert len(before) == len(after)
        places = np.flatnonzero(np.frombuffer(before, np.uint8) != np.frombuffer(after, np.uint8))
    with h5py.File(path) as file:
        raw = []
        for name in ("image/features", "image/state", "image/problem", "image/checksum", "image/micro_batch"):
            start = file[name].id.get_offset()
            raw.append((start, start + file[name].id.get_storage_size()))
    assert len(places)
    assert all(any(start <= place < stop for start, stop in raw) for place in places)


def test_an_unusable_image_keeps_its_reason_and_cut_reasons_stay_utf8(tmp_path):
    with open_writer(tmp_path / "made.h5", contents()) as writer:
        problems = {1: "not an image", 2: "ü" * 500}
        writer.write_images(0, features=np.zeros((60, 24), dtype=np.float16), problems=problems)
    cache = FeatureCache(tmp_path / "made.h5", allow_incomplete=True)
    assert cache.image_states[:4].tolist() == [DONE, UNUSABLE, UNUSABLE, DONE]
    assert cache.problems == {1: "not an image", 2: "ü" * 80}
    assert cache.usable.sum() == 58


def test_rows_that_are_settled_keep_what_they_have(tmp_path):
    with open_writer(tmp_path / "made.h5", contents()) as writer:
        writer.write_images(0, features=np.full((20, 24), 1, dtype=np.float16), problems={2: "broken"})
        writer.write_images(10, features=np.full((20, 24), 2, dtype=np.float16), problems={5: "late", 15: "broken too"})
        writer.write_images(0, features=np.full((20, 24), 3, dtype=np.float16), problems={0: "late"})
        assert writer.problems == {2: "broken", 25: "broken too"}
    cache = FeatureCache(tmp_path / "made.h5", allow_incomplete=True)
    expected = [1] * 20 + [2] * 10 + [0]
    expected[2] = expected[25] = 0
    assert cache.image_features[:31, 0].tolist() == expected, "an image with a problem has no feature"
    assert cache.problems == {2: "broken", 25: "broken too"}


def test_an_incomplete_cache_is_refused_with_the_command_that_completes_it(tmp_path):
    """Invariant 4."""
    with open_writer(tmp_path / "made.h5", contents()) as writer:
        writer.write_images(0, features=np.zeros((30, 24), dtype=np.float16), problems={})
    with pytest.raises(
        CacheIncompleteError, match=r"30 of 60 images and .* captions.*: clipret extract --dataset made"
    ):
        FeatureCache(tmp_path / "made.h5")


def test_a_second_writer_is_refused(tmp_path, monkeypatch):
    """Invariant 5, first half."""
    monkeypatch.setattr(access, "_LOCK_SECONDS", 0.1)
    path = write_cache(tmp_path / "made.h5")
    with FileLock(f"{path}.lock"), pytest.raises(CacheLockedError, match="another process is writing"):
        open_and_close(path, contents())
    with open_writer(path, contents()) as writer:
        assert (writer.states["image"] == DONE).all()


def test_readers_map_the_features_and_work_while_a_writer_is_open(tmp_path):
    """Invariant 5, second half."""
    path = tmp_path / "made.h5"
    with open_writer(path, contents()) as writer:
        cache = FeatureCache(path, allow_incomplete=True)
        assert isinstance(cache.image_features, np.memmap)
        assert isinstance(cache.text_features, np.memmap)
        writer.write_images(0, features=np.full((60, 24), 7, dtype=np.float16), problems={})
        assert (cache.image_features == 7).all()


def test_other_inputs_are_refused_with_the_difference_and_nothing_changes(tmp_path):
    """Invariant 6."""
    path = write_cache(tmp_path / "made.h5")
    before = path.read_bytes()
    other = contents(inputs={**contents().inputs, "background": "white"})
    with pytest.raises(CacheMismatchError, match=r"background: it has 'clip', asked for 'white'"):
        open_and_close(path, other)
    assert path.read_bytes() == before


@pytest.mark.parametrize("name", contents().inputs)
def test_the_fingerprint_covers_every_input(name):
    stored = contents()
    other = dataclasses.replace(stored, inputs={**stored.inputs, name: "other"})
    assert other.fingerprint != stored.fingerprint
    assert dataclasses.replace(stored, about={}).fingerprint == stored.fingerprint


def cut_short(path):
    path.write_bytes(path.read_bytes()[:5000])


def as_an_older_clipret_wrote_it(path):
    """Without the first block and its checksums, and with space for it."""
    path.write_bytes(path.read_bytes()[BLOCK:])


def as_another_tool_wrote_it(path):
    with h5py.File(path, "w") as file:
        file["features"] = np.zeros(3)


def of_another_format(path):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("clipret.cache.seal.FORMAT", 2)
        write_seal(path, command=None)


@pytest.mark.parametrize(
    ("spoil", "error", "message"),
    [
        (
            Path.unlink,
            CacheError,
            "there is no cache at {path}; make it with: clipret extract --dataset NAME --out {path}",
        ),
        (
            lambda path: path.write_text("hello"),
            CacheFormatError,
            "{path} is not an HDF5 file; expected a cache written by clipret extract.",
        ),
        (
            lambda path: path.write_bytes(b""),
            CacheFormatError,
            "{path} is not an HDF5 file; expected a cache written by clipret extract.",
        ),
        (
            lambda path: (path.unlink(), system.make_pipe(path)),
            CacheFormatError,
            "{path} is not an HDF5 file; expected a cache written by clipret extract.",
        ),
        (
            cut_short,
            CacheDamagedError,
            "{path}: it has 5,000 bytes where {size:,} were written; the cache is damaged: delete it and extract again "
            "with: clipret extract --dataset made",
        ),
        (
            as_an_older_clipret_wrote_it,
            CacheFormatError,
            "{path} was written by an older clipret, without the checksums that this one compares; delete it and "
            "extract again with: clipret extract --dataset made",
        ),
        (
            as_another_tool_wrote_it,
            CacheFormatError,
            "{path} is an HDF5 file but not a clipret cache; expected one by clipret extract.",
        ),
        (
            of_another_format,
            CacheFormatError,
            "{path} is a cache of format 2, this clipret reads format 1; extract it again, or use the clipret version "
            "that wrote it.",
        ),
    ],
)
def test_a_file_that_is_not_a_cache_of_this_format_is_a_one_line_error(spoil, error, message, cache_path):
    size = cache_path.stat().st_size
    spoil(cache_path)
    with pytest.raises(error) as caught:
        FeatureCache(cache_path)
    assert str(caught.value) == message.format(path=cache_path, size=size)


def test_features_that_are_not_finite_are_refused_with_their_row(tmp_path):
    path = tmp_path / "made.h5"
    with open_writer(path, contents()) as writer:
        features = np.zeros((60, 24), dtype=np.float16)
        features[[7, 9], 3] = np.nan
        writer.write_images(0, features=features, problems={})
    cache = FeatureCache(path, allow_incomplete=True)
    assert cache.read("image", np.array([1, 2])).shape == (2, 24)
    with pytest.raises(CacheError, match="features of 2 image rows are not finite, the first of row 7"):
        cache.read("image", np.arange(60))


def test_a_place_that_cannot_be_written_is_one_clear_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(CacheError, match=r"cannot write .*file/made.h5: .*the same command continues"):
        open_and_close(tmp_path / "file" / "made.h5", contents())


def test_attributes_are_json_that_other_tools_can_read(cache_path):
    with h5py.File(cache_path) as file:
        assert file.attrs["format"] == 1
        assert json.loads(file.attrs["inputs"])["dataset"] == "made"
        assert json.loads(file.attrs["about"])["model"] == "made"
        assert len(file.attrs["fingerprint"]) == 64
