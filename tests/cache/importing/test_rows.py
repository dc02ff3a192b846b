"""Rows are read, checked and written by several threads, and are what they were however these go."""

import os
import time
from contextlib import ExitStack
from threading import Event, current_thread

import numpy as np
import pytest

from clipret import FeatureCache, write_cache
from clipret.cache import raw
from clipret.cache.importing import rows, sources, spools
from clipret.errors import DatasetError
from tests.helpers.caches import arrays
from tests.helpers.ready_made import made


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch):
    monkeypatch.setattr(sources, "_BYTES_AT_ONCE", 7 * 16 * 4)
    monkeypatch.setattr(spools, "_ROWS_AT_ONCE", 9)


def reported(method, *, to):
    def call(self, *arguments):
        to.append(arguments)
        return method(self, *arguments)

    return call


@pytest.mark.parametrize("size", [3, 20])
def test_blocks_may_be_the_same_array_filled_again(tmp_path, size):
    arguments = made(kind="final")

    def filled(values):
        block = np.empty((size, values.shape[1]), dtype=values.dtype)
        for start in range(0, len(values), size):
            count = min(size, len(values) - start)
            block[:count] = values[start : start + count]
            yield block[:count]
            block[:] = 1

    blocks_of = {name: filled(arguments[name]) for name in ("images", "texts")}
    write_cache(tmp_path / "a.h5", **arguments | blocks_of)
    cache = FeatureCache(tmp_path / "a.h5")
    np.testing.assert_array_equal(cache.image_features, arguments["images"])
    np.testing.assert_array_equal(cache.text_features, arguments["texts"])


def test_wider_blocks_behind_float16_are_not_rounded_unasked(tmp_path):
    arguments = made()

    def mixed():
        yield arguments["images"][:11].astype(np.float16)
        yield arguments["images"][11:].astype(np.float32)

    texts = arguments["texts"].astype(np.float16)
    with pytest.raises(DatasetError, match=r"images, row 11 is float32, and rows before are float16; say --d"):
        write_cache(tmp_path / "a.h5", **arguments | {"images": mixed(), "texts": texts})
    for name in ("float16", "float32"):
        write_cache(tmp_path / f"{name}.h5", **arguments | {"images": mixed(), "texts": texts}, dtype=name)
        stored = FeatureCache(tmp_path / f"{name}.h5").image_features
        assert stored.dtype == name
        np.testing.assert_array_equal(stored[11:], arguments["images"][11:].astype(name))


def test_what_the_disk_is_sent_early_changes_no_byte(tmp_path, monkeypatch):
    write_cache(tmp_path / "late/cache.h5", **made())
    sent = []
    monkeypatch.setattr(rows, "_BYTES_TO_SYNC", 16 * 16 * 4)
    monkeypatch.setattr(rows.CacheWriter, "start_sync", reported(rows.CacheWriter.start_sync, to=sent))
    write_cache(tmp_path / "early/cache.h5", **made())
    spans = [(side, span.start, span.stop) for side, span in sent]
    assert spans[:3] == [("image", 0, 21), ("image", 21, 40), ("text", 0, 21)]
    assert arrays(tmp_path / "early/cache.h5") == arrays(tmp_path / "late/cache.h5")


@pytest.mark.skipif(not hasattr(os, "pwrite"), reason="there is only the other way")
def test_threads_that_must_seek_in_the_file_make_the_same_cache(tmp_path, monkeypatch):
    write_cache(tmp_path / "at.h5", **made(), dataset="x")
    for name in ("pwrite", "pread", "preadv"):
        monkeypatch.delattr(os, name)
    seek = os.lseek

    def slow_seek(*arguments):
        seek(*arguments)
        time.sleep(0.001)

    monkeypatch.setattr(os, "lseek", slow_seek)
    write_cache(tmp_path / "by_seeking.h5", **made(), dataset="x")
    assert arrays(tmp_path / "by_seeking.h5") == arrays(tmp_path / "at.h5")


def test_no_thread_writes_once_the_file_is_closed(tmp_path, monkeypatch):
    closed, late = [], []
    real_close, real_write = raw.RawFile.close, raw.RawFile.write

    def write(file, name, *arguments, **named):
        time.sleep(0.2 * name.endswith("features"))
        late.extend([name] if closed else [])
        real_write(file, name, *arguments, **named)

    def close(file):
        closed.append(True)
        real_close(file)

    monkeypatch.setattr(raw.RawFile, "write", write)
    monkeypatch.setattr(raw.RawFile, "close", close)

    def stop(_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_cache(tmp_path / "a.h5", **made(), on_progress=stop)
    assert closed
    time.sleep(0.3)
    assert not late


@pytest.mark.skipif(not hasattr(os, "pwrite"), reason="there is only the other way")
def test_stopped_twice_no_thread_writes_to_the_next_file_that_is_opened(tmp_path, monkeypatch):
    """As of a user who presses Ctrl-C again while the first one waits for the threads."""
    writing, opened, done = Event(), Event(), Event()
    real_write, main = os.pwrite, current_thread()

    def write(descriptor, data, offset):
        if current_thread() is main:
            return real_write(descriptor, data, offset)
        writing.set()
        assert opened.wait(60)
        try:
            return real_write(descriptor, data, offset)
        finally:
            done.set()

    def stopped_twice(pool, wait=True):
        assert writing.wait(60)
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "pwrite", write)
    monkeypatch.setattr(spools.ThreadPoolExecutor, "shutdown", stopped_twice)
    with pytest.raises(KeyboardInterrupt):
        write_cache(tmp_path / "a.h5", **made(images=stopped_blocks()))
    with ExitStack() as files:
        for number in range(8):
            files.enter_context((tmp_path / f"own{number}").open("wb"))
        opened.set()
        assert done.wait(60)
    assert [(tmp_path / f"own{number}").stat().st_size for number in range(8)] == [0] * 8


def stopped_blocks():
    yield made()["images"][:11]
    raise KeyboardInterrupt
