"""Errors that no stage puts into words: the system's refusals and bugs of ours are one line each."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from clipret.cli import faults


@pytest.fixture
def failing(run, monkeypatch):
    """Run `clipret info` with a stage that raises the error."""

    def call(error):
        def stage(*_, **__):
            raise error

        monkeypatch.setattr("clipret.cache.inspection.inspect_cache", stage)
        return run("info", "c.h5")

    return call


@pytest.mark.parametrize(
    ("number", "advice"),
    [
        (errno.EACCES, "Permission denied; give yourself the permission, or name another path."),
        (errno.ENOSPC, "No space left on device; make room, then start the same command again."),
        (errno.EMFILE, "Too many open files; allow more open files with: ulimit -n 4096."),
        (errno.EROFS, "Read-only file system; name a place that can be written."),
        (errno.EIO, "Input/output error; once that is fixed, start the same command again."),
    ],
)
def test_what_the_system_refuses_is_one_line_with_the_path_and_what_to_do(failing, number, advice):
    error = OSError(number, os.strerror(number), "a/b.h5")
    assert failing(error) == (1, "", f"error: a/b.h5: {advice}\n")


def test_a_refusal_that_names_no_file_says_so(failing):
    status, out, err = failing(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))
    assert (status, out) == (1, "")
    assert err == (
        "error: standard output, or a file that the system does not name: No space left on device; make room, then "
        "start the same command again.\n"
    )


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (MemoryError(), ""),
        (MemoryError("Unable to allocate 8.00 TiB for an array"), " (Unable to allocate 8.00 TiB for an array)"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), None),
        (RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"), None),
        (ImportError("libtorch_cpu.so: failed to map segment from shared object"), None),
        (ImportError("libtorch_cuda.so: cannot allocate memory in static TLS block"), None),
    ],
)
def test_want_of_memory_is_one_line(failing, error, reason):
    reason = f" ({error})" if reason is None else reason
    expected = f"error: out of memory{reason}; make memory free, or use smaller batches or blocks.\n"
    assert failing(error) == (1, "", expected)


def test_a_bug_is_one_line_with_a_file_that_holds_the_traceback_and_the_versions(failing, tmp_path, monkeypatch):
    monkeypatch.setattr(faults.tempfile, "tempdir", str(tmp_path))
    status, out, err = failing(ZeroDivisionError("a\nb"))
    (details,) = tmp_path.glob("clipret-bug-*.txt")
    assert (status, out) == (70, "")
    assert err == (
        f"error: this is a bug in clipret: ZeroDivisionError: a b; please report it with {details}, which names your "
        f"files: look through it.\n"
    )
    text = details.read_text(encoding="utf-8")
    assert text.startswith("command: clipret info c.h5\nversions: clipret ")
    assert "Traceback (most recent call last)" in text


def test_a_bug_whose_details_cannot_be_written_is_one_line_all_the_same(failing, tmp_path, monkeypatch):
    monkeypatch.setattr(faults.tempfile, "tempdir", str(tmp_path / "none"))
    status, _, err = failing(RecursionError("too deep"))
    assert status == 70
    assert err == (
        "error: this is a bug in clipret: RecursionError: too deep; its details could not be written (No such file or "
        "directory). Please report this line.\n"
    )


@pytest.mark.ci
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_standard_output_is_one_line():
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "clipret", "--help"], stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    assert done.returncode == 1
    assert done.stderr == (
        "error: standard output, or a file that the system does not name: No space left on device; make room, then "
        "start the same command again.\n"
    )


@pytest.mark.ci
@pytest.mark.parametrize(
    "closed", [*(pytest.param(one, marks=pytest.mark.ci) for one in ("<&-", ">&-", "2>&-")), "<&- >&- 2>&-"]
)
def test_a_command_works_with_its_standard_streams_closed(closed, cache_path):
    written = cache_path.read_bytes()
    command = f'"{sys.executable}" -m clipret info "{cache_path}" {closed}'
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert ("fingerprint" in done.stdout) == (">&-" not in closed.replace("2>&-", ""))
    assert cache_path.read_bytes() == written


@pytest.mark.ci
def test_with_standard_error_closed_an_error_is_an_exit_status():
    command = f'"{sys.executable}" -m clipret info gone.h5 2>&-'
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (1, "", "")
