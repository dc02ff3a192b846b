"""External failures of an extraction: signals, full disks, vanishing files, reads that never end."""

import errno
import multiprocessing
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time

import h5py
import numpy as np
import pytest

from clipret import ExtractConfig, FeatureCache, extract
from clipret.cache import DONE, PENDING, access
from clipret.errors import CacheError, CacheLockedError, DatasetError
from clipret.extraction import loader as pool
from clipret.images import reading
from tests.conftest import StopAfter
from tests.helpers import system
from tests.helpers.caches import arrays
from tests.helpers.child_extraction import extract_slowly

ON_LINUX = sys.platform.startswith("linux")


@pytest.fixture
def config(coco_root, checkpoints, tmp_path):
    """Settings of a small extraction of 20 batches of images; changes by keyword."""

    def make(**changes):
        values = {"dataset": "coco", "root": coco_root, "model": str(checkpoints["transformer"]), "batch_size": 4}
        values |= {"out": tmp_path / "coco.h5", "workers": 0, "device": "cpu"}
        return ExtractConfig(**(values | changes))

    return make


@pytest.fixture
def whole(config, tmp_path):
    """Arrays of the uninterrupted cache."""
    extract(config(out=tmp_path / "whole.h5"))
    return arrays(tmp_path / "whole.h5")


@pytest.mark.skipif(not ON_LINUX, reason="signals as Linux has them")
@pytest.mark.parametrize(("number", "status", "word"), [("SIGINT", 130, "interrupted"), ("SIGTERM", 143, "terminated")])
@pytest.mark.parametrize("workers", [pytest.param(0, marks=pytest.mark.ci), 2])
def test_a_signal_lets_the_batch_end_and_says_how_to_go_on(
    config, children, whole, tmp_path, number, status, word, workers
):
    settings = config()
    words = ["extract", "--dataset", "coco", "--root", str(settings.root), "--model", settings.model]
    words += ["--out", str(settings.out), "--batch-size", "4", "--workers", str(workers), "--device", "cpu"]
    batches = children.Value("i", 0)
    child = children.Process(target=extract_slowly, args=(words, batches, tmp_path / "stderr"))
    child.start()
    while batches.value < 5:
        time.sleep(0.005)
    os.kill(child.pid, getattr(signal, number))
    child.join(30)
    assert child.exitcode == status
    lines = (tmp_path / "stderr").read_text().splitlines()
    assert "finishing the batch; Ctrl-C again stops at once" in lines
    assert lines[-1] == f"error: {word}; finished rows are kept; go on with: clipret {' '.join(words)}"
    cache = FeatureCache(settings.out, allow_incomplete=True)
    # Every written row is marked done, so nothing has to be recognised by its checksum.
    assert 4 * 5 <= np.sum(cache.image_states == DONE) < 80
    np.testing.assert_array_equal(cache.image_states == DONE, cache.checksums["image"] != 0)
    again = extract(config(workers=workers))
    assert 0 < again["extracted_images"] < 80
    assert arrays(settings.out) == whole


@pytest.mark.ci
@pytest.mark.skipif(not ON_LINUX, reason="workers are forked on Linux")
def test_a_read_that_never_ends_is_named_and_the_same_command_goes_on(config, whole, monkeypatch, coco_root):
    victim = sorted((coco_root / "train2017").iterdir())[25]
    real = reading.read_file

    def read_file(name, **values):
        if name.endswith(victim.name):
            time.sleep(1000)
        return real(name, **values)

    with monkeypatch.context() as patch:
        patch.setattr(reading, "read_file", read_file)
        patch.setattr(pool, "_CHECK_SECONDS", 0.1)
        started = time.monotonic()
        with pytest.raises(DatasetError) as caught:
            extract(config(workers=2, read_timeout=0.5))
        assert time.monotonic() - started < 20
    message = re.sub(r"taken \d+ s", "taken some s", str(caught.value))
    assert message == (
        f"reading train2017/{victim.name} has taken some s, more than --read-timeout 0.5; check that the disk of "
        f"{coco_root} responds. Finished rows are kept; run the same command again to continue."
    )
    assert multiprocessing.active_children() == []
    extract(config(workers=2))
    assert arrays(config().out) == whole


def test_read_errors_that_pass_change_nothing(config, whole, monkeypatch):
    from clipret.images import files

    monkeypatch.setattr(files, "_PAUSES_SECONDS", (0,))
    real, calls = files._file, []

    def flaky(path):
        calls.append(path)
        if len(calls) % 3:
            raise OSError(errno.EIO, "Input/output error")
        return real(path)

    monkeypatch.setattr(files, "_file", flaky)
    assert extract(config())["problems"] == 0
    assert len(calls) > 3 * 80
    assert arrays(config().out) == whole


def test_a_cache_removed_under_the_writer_is_said_and_made_again(config, whole):
    class Remove(StopAfter):
        def __call__(self, progress):
            self.left -= 1
            if self.left == 0:
                config().out.unlink()

    with pytest.raises(CacheError, match=r"coco\.h5 was removed or replaced while it was being written"):
        extract(config(), on_progress=Remove(5))
    extract(config())
    assert arrays(config().out) == whole


def test_a_second_extraction_of_the_same_cache_is_refused_and_harms_nothing(config, whole, monkeypatch):
    monkeypatch.setattr(access, "_LOCK_SECONDS", 0.1)
    refused = []

    def try_another(progress):
        if not refused:
            with pytest.raises(CacheLockedError) as caught:
                extract(config())
            refused.append(str(caught.value))

    extract(config(), on_progress=try_another)
    assert refused == [f"another process is writing {config().out}; wait for it, or give another --out."]
    assert arrays(config().out) == whole


def test_a_folder_that_cannot_be_written_is_found_before_the_model_is_loaded(config, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(CacheError, match=r"^cannot write .*file/coco\.h5: .* is not a folder\."):
        extract(config(out=tmp_path / "file" / "coco.h5", model="no such model"))


@pytest.fixture
def small_disk(tmp_path):
    """A disk of two megabytes, and a function that leaves only so many bytes on it."""
    folder = tmp_path / "disk"

    def leave(count):
        ballast = folder / "ballast"
        ballast.unlink(missing_ok=True)
        if count is not None:
            ballast.write_bytes(bytes(shutil.disk_usage(folder).free - count))

    with system.small_disk(folder, megabytes=2):
        yield folder, leave


@pytest.mark.skipif(not ON_LINUX, reason="mounts a tmpfs")
def test_too_little_room_is_found_before_anything_is_encoded(config, whole, small_disk):
    folder, leave = small_disk
    leave(40_000)
    reports = []
    with pytest.raises(CacheError) as caught:
        extract(config(out=folder / "coco.h5"), on_progress=reports.append)
    assert "coco.h5 needs " in str(caught.value)
    assert f"are free in {folder}; make room or give another --out." in str(caught.value)
    assert reports == []
    leave(None)
    extract(config(out=folder / "coco.h5"))
    assert arrays(folder / "coco.h5") == whole


def to_come(path):
    """(offset, length) in the file of the features from the first row to do on, of both sides."""
    with h5py.File(path) as file:
        for side in ("image", "text"):
            features, todo = file[side]["features"], np.flatnonzero(file[side]["state"][:] == PENDING)
            before = int(todo[0]) * features.shape[1] * features.dtype.itemsize if len(todo) else None
            if before is not None:
                yield features.id.get_offset() + before, features.id.get_storage_size() - before


@pytest.mark.skipif(not ON_LINUX or shutil.which("fallocate") is None, reason="punches holes into a file")
@pytest.mark.parametrize("stop", [1, 9, 19, 20])
def test_a_disk_that_fills_up_on_the_way_is_said_and_with_room_the_same_command_goes_on(
    config, whole, small_disk, stop
):
    """On a file system that copies on writing, what was allocated may be gone: here, holes where rows are to come."""
    folder, leave = small_disk
    settings = config(out=folder / "coco.h5")
    with pytest.raises(KeyboardInterrupt):
        extract(settings, on_progress=StopAfter(stop))
    for offset, length in to_come(settings.out):
        subprocess.run(["fallocate", "-p", "-o", str(offset), "-l", str(length), settings.out], check=True)
    leave(0)
    with pytest.raises(CacheError) as caught:
        extract(settings)
    assert str(caught.value) == (
        f"cannot write {settings.out}: No space left on device. Finished rows are kept; once that is fixed, the same "
        f"command continues."
    )
    leave(None)
    extract(settings)
    assert arrays(settings.out) == whole


@pytest.mark.skipif(not ON_LINUX, reason="forks with threads")
def test_an_extraction_after_other_work_on_many_threads_does_not_hang(config, whole):
    """Forked processes must not wait for threads that stayed in their parent."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        for _ in range(3):
            torch.randn(600, 600) @ torch.randn(600, 600)
        torch.nn.functional.conv2d(torch.randn(4, 16, 64, 64), torch.randn(16, 16, 3, 3))
        done = []
        thread = threading.Timer(120, lambda: done or os.abort())
        thread.daemon = True
        thread.start()
        extract(config(workers=2))
        done.append(True)
        thread.cancel()
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert arrays(config().out) == whole
