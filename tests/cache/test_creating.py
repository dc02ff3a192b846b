"""Disk space for a cache: checked before it is created, and when it runs out anyway."""

import ctypes
import os
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from clipret.cache import FeatureCache, access, open_writer, require_writable
from clipret.errors import CacheError
from tests.conftest import contents
from tests.helpers import system
from tests.helpers.caches import MADE, arrays, features_of


def open_and_close(path, planned):
    with open_writer(path, planned):
        pass


def test_a_cache_that_does_not_fit_is_refused_before_anything_is_written(tmp_path, monkeypatch):
    planned = contents(images=40_000, dims=(512, 16, 12))
    monkeypatch.setattr(access.shutil, "disk_usage", lambda folder: SimpleNamespace(free=4 * 10**6))
    with pytest.raises(CacheError) as caught, open_writer(tmp_path / "made.h5", planned):
        pass
    assert str(caught.value) == (
        f"{tmp_path / 'made.h5'} needs 68.7 MB, and 4.0 MB are free in {tmp_path}; make room or give another --out."
    )
    assert list(tmp_path.iterdir()) == []


def test_the_room_that_is_asked_for_is_the_room_that_is_taken(tmp_path):
    from clipret.cache.creating import needed_bytes

    for planned in (MADE, contents(images=3000, dims=(512, 512, 12))):
        path = tmp_path / f"{len(planned.captions)}.h5"
        with open_writer(path, planned):
            pass
        assert path.stat().st_size <= needed_bytes(planned) <= 1.05 * path.stat().st_size + 60_000


def test_a_place_that_cannot_be_written_is_found_at_once(tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "folder.h5").mkdir()
    with pytest.raises(
        CacheError, match=r"cannot write .*file/made.h5: .*file is not a folder. Finished rows are kept"
    ):
        require_writable(tmp_path / "file" / "made.h5")
    with pytest.raises(CacheError, match=r"cannot write .*folder.h5: Is a directory"):
        require_writable(tmp_path / "folder.h5")
    require_writable(tmp_path / "new" / "made.h5")
    assert list((tmp_path / "new").iterdir()) == []


@pytest.fixture
def small_disk(tmp_path):
    """A folder on a disk of its own, of 1 MB."""
    with system.small_disk(tmp_path / "disk", megabytes=1) as folder:
        yield folder


def test_a_disk_that_fills_up_while_the_structure_is_written_is_one_clear_line(small_disk, monkeypatch):
    """Also without the check before, and without breaking later calls of this process."""
    monkeypatch.setattr(access, "require_room", lambda path, **_: None)
    monkeypatch.setattr("clipret.cache.creating.require_room", lambda path, **_: None)
    path = small_disk / "made.h5"
    for images in (3000, 700, 4000):
        with pytest.raises(CacheError, match=r"cannot write .*made.h5: .*[Nn]o space left on device"):
            open_and_close(path, contents(images=images, dims=(512, 512, 12)))
        assert list(small_disk.iterdir()) == []
    open_and_close(path, MADE)
    assert len(FeatureCache(path, allow_incomplete=True).image_ids) == 60


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="holes are punched as Linux does it")
@pytest.mark.parametrize("left", [0, 4096, 12288])
def test_a_disk_that_fills_up_under_a_cache_with_holes_is_filled_after_room_is_made(left, small_disk, tmp_path):
    """As on a copy-on-write file system."""
    planned = contents(images=300, dims=(128, 128, 12))
    rows = np.arange(300)

    def write_all(path):
        with open_writer(path, planned) as writer:
            for start in range(0, 300, 20):
                writer.write_images(start, features=features_of(rows[start : start + 20], width=128), problems={})
            texts = np.arange(len(planned.captions))
            writer.write_texts(0, features=features_of(texts, width=128), tokens=texts)

    write_all(tmp_path / "whole.h5")
    path = small_disk / "made.h5"
    with open_writer(path, planned) as writer:
        place = writer._raw.places["image/features"]
    start, stop = place.segments[0].offset, place.segments[0].offset + 300 * place.row_bytes
    punch(path, start=start + -start % 4096, stop=stop - stop % 4096)
    ballast = small_disk / "ballast"
    free = shutil.disk_usage(small_disk).free
    ballast.write_bytes(bytes(free - left))
    with pytest.raises(CacheError, match="No space left on device"):
        write_all(path)
    ballast.unlink()
    write_all(path)
    assert arrays(path) == arrays(tmp_path / "whole.h5")


def punch(path, *, start, stop):
    """Punch a hole into a file."""
    libc = ctypes.CDLL(None, use_errno=True)
    with Path(path).open("r+b") as file:
        failed = libc.fallocate(file.fileno(), 0x02 | 0x01, ctypes.c_longlong(start), ctypes.c_longlong(stop - start))
        assert not failed, os.strerror(ctypes.get_errno())
