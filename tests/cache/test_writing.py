"""The state of a cache after its writer was killed, or lost power or its disk, at any moment."""

import errno
import os
import random
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from zlib import crc32

import h5py
import numpy as np
import pytest

from clipret.cache import (
    DONE,
    PENDING,
    UNUSABLE,
    FeatureCache,
    access,
    check_rows,
    check_texts,
    open_writer,
    raw,
    row_writing,
)
from clipret.cache.checksums import Rows, row_checksums
from clipret.cache.layout import IMPORTED, NO_NOTES
from clipret.errors import CacheError, CacheLockedError
from tests.helpers.caches import (
    IMAGE_COPIES,
    MADE,
    PROBLEMS,
    SOURCES,
    TEXT_COPIES,
    Disk,
    Killed,
    arrays,
    digests_of,
    features_of,
    fill,
)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    path = tmp_path_factory.mktemp("whole") / "made.h5"
    with open_writer(path, MADE) as writer:
        fill(writer)
    return arrays(path)


def write(path, part=None):
    with open_writer(path, MADE, part=part) as writer:
        fill(writer)


def doing(path, work):
    """Open the writer and pass it to `work`."""
    with open_writer(path, MADE) as writer:
        work(writer)


def write_eight(writer):
    writer.write_images(0, features=features_of(np.arange(8), width=24), problems={})


def require_true(path):
    """Every row that is marked done, or unusable, is so."""
    cache = FeatureCache(path, allow_incomplete=True)
    done = np.flatnonzero(cache.image_states == DONE)
    sources = np.array([IMAGE_COPIES.get(row, row) for row in done.tolist()], dtype=np.int64)
    np.testing.assert_array_equal(cache.image_features[done], features_of(sources, width=24))
    done = np.flatnonzero(cache.text_states == DONE)
    sources = np.array([TEXT_COPIES.get(row, row) for row in done.tolist()], dtype=np.int64)
    np.testing.assert_array_equal(cache.text_features[done], features_of(sources + 1000, width=16))
    for row, reason in cache.problems.items():
        assert PROBLEMS[IMAGE_COPIES.get(row, row)].startswith(reason)
        assert reason


@pytest.mark.parametrize("seconds", [0, 5])
@pytest.mark.parametrize("torn", [False, True])
@pytest.mark.ci
def test_killed_between_any_two_steps_the_next_writer_makes_the_same_bytes(seconds, torn, whole, tmp_path, monkeypatch):
    """With rows marked done at every batch, and only at the end."""
    monkeypatch.setattr(row_writing, "_SYNC_SECONDS", seconds)
    with open_writer(tmp_path / "empty.h5", MADE):
        pass
    path = tmp_path / "made.h5"
    with monkeypatch.context() as patch:
        disk = Disk(patch)
        write(path)
    total = disk.steps
    assert total > 100
    # Torn writes at the moments between those of whole ones.
    step = 5 if seconds else 9
    for moment in range(step * torn, total, 2 * step):
        shutil.copy(tmp_path / "empty.h5", path)
        with monkeypatch.context() as patch:
            Disk(patch, stop_at=moment, torn=torn)
            with pytest.raises(Killed):
                write(path)
        require_true(path)
        write(path)
        assert arrays(path) == whole, f"killed at step {moment}"


def test_complete_rows_survive_a_kill_before_they_were_marked_done(tmp_path, monkeypatch):
    path = tmp_path / "made.h5"

    def write_some(writer):
        writer.write_images(0, features=features_of(np.arange(20), width=24), problems={3: "broken"})
        writer.write_texts(5, features=features_of(np.arange(5), width=16), tokens=np.full(5, 7))
        Disk(patch, stop_at=0)

    with monkeypatch.context() as patch, pytest.raises(Killed):
        doing(path, write_some)
    cache = FeatureCache(path, allow_incomplete=True)
    assert (cache.image_states == PENDING).all()
    with h5py.File(path, "r+") as file:
        file["image/features"][7, 0] += 1
    with open_writer(path, MADE) as writer:
        assert writer.pending("image").tolist() == [7, *range(20, 60)], "a torn row is to do again"
        assert np.flatnonzero(writer.states["text"]).tolist() == [5, 6, 7, 8, 9]
        assert writer.problems == {3: "broken"}
    cache = FeatureCache(path, allow_incomplete=True)
    assert cache.image_states[:9].tolist() == [DONE, DONE, DONE, UNUSABLE, DONE, DONE, DONE, PENDING, DONE]


def after_power_loss(before, log, *, moment):
    """A possible file after a power loss: everything synced, and any part of the rest, in any order."""
    file = bytearray(before)
    kept = max((at + 1 for at, entry in enumerate(log) if entry is None), default=0)
    unsure = [entry for entry in log[kept:] if moment.random() < 0.5]
    moment.shuffle(unsure)
    for entry in [*log[:kept], *unsure]:
        if entry is not None:
            offset, data = entry
            file[offset : offset + len(data)] = data
    return bytes(file)


@pytest.mark.ci
def test_after_a_power_loss_every_row_that_is_called_done_has_its_feature(whole, tmp_path, monkeypatch):
    path = tmp_path / "made.h5"
    monkeypatch.setattr(row_writing, "_SYNC_SECONDS", 0)
    with monkeypatch.context() as patch:
        disk = Disk(patch)
        write(path)
    # Before the first sync, most may be lost.
    moments = [step for step, entry in enumerate(disk.log) if entry is None]
    for number in range(40):
        moment = random.Random(number)
        path.unlink(missing_ok=True)
        with open_writer(path, MADE):
            pass
        before = path.read_bytes()
        with monkeypatch.context() as patch:
            disk = Disk(patch, stop_at=moment.choice(moments))
            with pytest.raises(Killed):
                write(path)
        path.write_bytes(after_power_loss(before, disk.log, moment=moment))
        require_true(path)
        write(path)
        assert arrays(path) == whole


def test_the_disk_is_waited_for_before_rows_are_called_done_and_after(tmp_path, monkeypatch):
    path = tmp_path / "made.h5"
    with open_writer(path, MADE) as writer:
        disk = Disk(monkeypatch)
        writer.write_images(0, features=features_of(np.arange(8), width=24), problems={})
        writer.sync()
        places = writer._raw.places
    names = [
        next(
            name
            for name, place in places.items()
            if 0 <= entry[0] - place.segments[0].offset < place.row_bytes * place.shape[0]
        )
        if entry
        else "sync"
        for entry in disk.log
    ]
    written = ["image/features", "image/problem", "image/sha256", "image/single_colour", "image/checksum"]
    assert names[:8] == [*written, "sync", "image/state", "sync"], "consecutive rows go in one write"


def test_the_disk_is_waited_for_every_few_seconds_only(tmp_path, monkeypatch):
    now = [100.0]
    monkeypatch.setattr(row_writing.time, "monotonic", lambda: now[0])
    with open_writer(tmp_path / "made.h5", MADE) as writer:
        disk = Disk(monkeypatch)
        for start in range(0, 60, 4):
            writer.write_images(start, features=features_of(np.arange(4), width=24), problems={})
            now[0] += 1
        assert disk.log.count(None) == 2 * 2


def forget(writer):
    writer.forget_problems()
    raise Killed


def test_problems_are_forgotten_also_when_killed_at_any_step(tmp_path, monkeypatch):
    """UNUSABLE rows become pending again, and once they have a feature their reasons are cleared."""
    path = tmp_path / "made.h5"
    features = features_of(np.arange(60), width=24)
    with open_writer(path, MADE) as writer:
        writer.write_images(0, features=features, problems={3: "broken", 50: "broken"})
    saved = path.read_bytes()
    # Two writes for each of checksums, states and reasons, and a sync after each, and before.
    for moment in range(11):
        path.write_bytes(saved)
        with monkeypatch.context() as patch:
            Disk(patch, stop_at=moment)
            with pytest.raises(Killed):
                doing(path, forget)
        assert path.stat().st_size == len(saved)
        with open_writer(path, MADE) as writer:
            todo = writer.pending("image").tolist()
            # Killed before the first step, nothing was forgotten; after it, no row may count as complete.
            assert set(todo) <= {3, 50}
            assert sorted(todo + list(writer.problems)) == [3, 50]
            assert moment < 2 or 3 in todo
            assert moment < 3 or todo == [3, 50]
            writer.forget_problems()
            assert writer.pending("image").tolist() == [3, 50]
            assert writer.problems == {}
            writer.write_images(0, features=features, problems={50: "broken again"})
        with h5py.File(path) as file:
            reasons = file["image/problem"][:]
            assert {int(row): reasons[row] for row in np.flatnonzero(reasons)} == {50: b"broken again"}
            assert file["image/state"][:].tolist().count(UNUSABLE) == 1
        np.testing.assert_array_equal(FeatureCache(path, allow_incomplete=True).image_features[3], features[3])


@pytest.mark.ci
def test_after_a_power_loss_problems_are_kept_or_forgotten_but_not_halved(tmp_path, monkeypatch):
    path = tmp_path / "made.h5"
    with open_writer(path, MADE) as writer:
        fill(writer)
    saved = path.read_bytes()
    for number in range(40):
        moment = random.Random(number)
        path.write_bytes(saved)
        with monkeypatch.context() as patch:
            disk = Disk(patch, stop_at=moment.randrange(1, 15))
            with pytest.raises(Killed):
                doing(path, forget)
        path.write_bytes(after_power_loss(saved, disk.log, moment=moment))
        with open_writer(path, MADE) as writer:
            todo = writer.pending("image").tolist()
            assert sorted([*todo, *writer.problems]) == [3, 17, 30, 41]
            assert all(writer.problems.values())
        cache = FeatureCache(path, allow_incomplete=True)
        assert check_texts(cache) == []
        assert not any(map(len, check_rows(cache, "image").values()))


@pytest.mark.parametrize("moment", [0, 1, 2, 3, 10, 50, 100])
def test_a_full_disk_is_a_one_line_error_and_the_rest_is_written_later(moment, whole, tmp_path, monkeypatch):
    path = tmp_path / "made.h5"
    with monkeypatch.context() as patch:
        Disk(patch, stop_at=moment, torn=True, error=OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))
        with pytest.raises(CacheError) as caught:
            write(path)
    assert str(caught.value) == (
        f"cannot write {path}: No space left on device. Finished rows are kept; once that is fixed, the same command "
        f"continues."
    )
    require_true(path)
    write(path)
    assert arrays(path) == whole


def test_nothing_is_called_done_after_waiting_for_the_disk_failed_once(tmp_path, monkeypatch):
    """A second fsync may succeed although the data of the first is lost."""
    path, failed = tmp_path / "made.h5", []

    def fail_once(file):
        if not failed:
            failed.append(file)
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patch:
        patch.setattr(raw.RawFile, "sync", fail_once)
        with pytest.raises(CacheError, match="Input/output error"):
            doing(path, lambda writer: (write_eight(writer), writer.sync()))
    assert (FeatureCache(path, allow_incomplete=True).image_states == PENDING).all()
    with open_writer(path, MADE) as writer:
        disk = Disk(monkeypatch)
        assert len(writer.pending("image")) == 52
        writer.sync()
    assert disk.log[0] is None, "by then written once more, and waited for"


def test_the_first_error_wins_over_what_it_did_to_the_file(tmp_path, monkeypatch):
    def fail_twice(writer):
        write_eight(writer)
        Disk(monkeypatch, stop_at=0, error=OSError(errno.EIO, "second"))
        raise KeyError("first")

    with pytest.raises(KeyError, match="first"):
        doing(tmp_path / "made.h5", fail_twice)


@pytest.mark.parametrize("again", [False, True])
def test_a_cache_that_is_removed_or_replaced_while_it_is_written_is_one_clear_line(again, whole, tmp_path):
    path = tmp_path / "made.h5"

    def remove(writer):
        write_eight(writer)
        path.unlink()
        if again:
            path.write_bytes(b"another")

    with pytest.raises(CacheError, match=r"made.h5 was removed or replaced while .*; the same command starts it again"):
        doing(path, remove)
    path.unlink(missing_ok=True)
    write(path)
    assert arrays(path) == whole


def test_the_checksum_of_a_row_is_the_crc32_of_its_feature_and_notes(tmp_path):
    path = tmp_path / "made.h5"
    write(path)
    cache = FeatureCache(path)
    with h5py.File(path) as file:
        reasons, digests, colours = (file["image"][name][:] for name in ("problem", "sha256", "single_colour"))
    for row, checksum in enumerate(cache.checksums["image"].tolist()):
        beside = reasons[row] + digests[row].tobytes() + colours[row].tobytes()
        assert checksum == crc32(cache.image_features[row].tobytes() + beside)
    for row, checksum in enumerate(cache.checksums["text"].tolist()):
        tokens = int(cache.tokens[row]).to_bytes(2, "little") * 2
        assert checksum == crc32(cache.text_features[row].tobytes() + tokens)


def test_copies_take_feature_reason_tokens_and_state_of_their_source(tmp_path):
    path = tmp_path / "made.h5"
    write(path)
    cache = FeatureCache(path)
    assert cache.problems[30] == cache.problems[3] == "not an image"
    np.testing.assert_array_equal(cache.image_features[59], cache.image_features[12])
    np.testing.assert_array_equal(cache.text_features[[20, 21]], cache.text_features[[4, 4]])
    assert cache.tokens[20] == cache.tokens[4]
    np.testing.assert_array_equal(cache.image_digests, digests_of(SOURCES["image"]))
    colours = SOURCES["image"] % 5 == 1
    colours[list(cache.problems)] = False
    np.testing.assert_array_equal(cache.single_colour, colours)


def test_the_smallest_micro_batch_is_kept(tmp_path):
    path = tmp_path / "made.h5"
    for size, kept in ((64, 64), (16, 16), (32, 16)):
        with open_writer(path, MADE) as writer:
            writer.note_micro_batch("image", size)
            assert writer.micro_batch("image") == kept
    assert FeatureCache(path, allow_incomplete=True).micro_batch == {"image": 16, "text": 0}


def test_a_second_writer_may_open_after_the_first_has_closed(tmp_path, monkeypatch):
    monkeypatch.setattr(access, "_LOCK_SECONDS", 0.1)
    path = tmp_path / "made.h5"
    with open_writer(path, MADE), pytest.raises(CacheLockedError, match="another process is writing"):
        write(path)
    write(path)


@pytest.mark.skipif(not hasattr(os, "pwrite"), reason="there is only the other way")
@pytest.mark.parametrize("method", ["in pieces", "by seeking"])
def test_the_bytes_are_the_same_however_the_system_takes_them(method, whole, tmp_path, monkeypatch):
    if method == "in pieces":
        real = os.pwrite
        monkeypatch.setattr(os, "pwrite", lambda descriptor, data, offset: real(descriptor, data[:1000], offset))
    else:
        monkeypatch.delattr(os, "pwrite")
        monkeypatch.delattr(os, "pread")
        monkeypatch.delattr(os, "preadv")
    write(tmp_path / "made.h5")
    assert arrays(tmp_path / "made.h5") == whole
    write(tmp_path / "made.h5")


def test_a_thread_may_write_what_another_one_syncs(whole, tmp_path):
    path = tmp_path / "made.h5"
    with open_writer(path, MADE) as writer, ThreadPoolExecutor(1) as pool:
        pool.submit(fill, writer).result()
    assert arrays(path) == whole


def test_rows_written_ahead_are_still_to_do_until_they_are_put(tmp_path):
    path, rows = tmp_path / "made.h5", np.arange(8)
    contents = replace(MADE, inputs={**MADE.inputs, IMPORTED: "made"}, notes=NO_NOTES)
    features = features_of(rows, width=24)
    stored = Rows(features, {}, states=np.full(8, DONE, np.uint8), checksums=row_checksums(features, {}))

    def part(start, stop):
        return stored.take(rows[start:stop])

    with open_writer(path, contents) as writer:
        assert writer.write_ahead("image", range(4), features=features[:4])
        assert len(writer.pending("image")) == 60
    with open_writer(path, contents) as writer:
        assert len(writer.pending("image")) == 60
        assert writer.write_ahead("image", range(4), features=features[:4])
        writer.put_block("image", range(4), stored=part(0, 4), ahead=True)
        # Rows that are done are not written again, whatever is given.
        assert not writer.write_ahead("image", range(2, 6), features=features[2:6] + 1)
        writer.put_block("image", range(2, 6), stored=part(2, 6), ahead=False)
    cache = FeatureCache(path, allow_incomplete=True)
    assert cache.image_states.tolist() == [DONE] * 6 + [0] * 54
    np.testing.assert_array_equal(cache.image_features[:6], features[:6])
