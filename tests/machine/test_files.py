"""Reading what a user names, and locks that leave nothing behind."""

import errno
import os
import socket
import sys
from pathlib import Path

import pytest
from filelock import Timeout

from clipret.machine import files
from clipret.machine.files import locked, read_file, require_file
from tests.helpers import system


def refusal(path, most=100):
    with pytest.raises(OSError, match=r".") as caught:
        read_file(path, most=most)
    return caught.value.strerror


def test_a_file_is_read_whole_up_to_its_limit(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "_CHUNK", 7)
    path = tmp_path / "a"
    path.write_bytes(bytes(range(100)))
    assert read_file(path, most=100) == bytes(range(100))
    assert require_file(path) == 100
    assert refusal(path, most=99) == "it is larger than 99 bytes"
    link = tmp_path / "link"
    link.symlink_to(path)
    assert read_file(link, most=100) == bytes(range(100))


def test_anything_but_a_regular_file_is_refused_unopened(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    system.make_pipe("pipe")
    assert refusal("pipe") == "it is a pipe, not a file"
    assert refusal(tmp_path) == "it is a folder, not a file"
    assert refusal("/dev/zero") == "it is a device, not a file"
    with socket.socket(socket.AF_UNIX) as opened:
        opened.bind("socket")
        assert refusal("socket") == "it is a socket, not a file"
    with pytest.raises(FileNotFoundError):
        read_file("none", most=1)


@pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="there is no /proc")
def test_a_file_whose_size_the_system_does_not_tell_is_read_no_further_than_its_limit():
    assert Path("/proc/self/maps").stat().st_size == 0
    assert refusal("/proc/self/maps") == "it is larger than 100 bytes"
    assert refusal("/proc/self/mem") == "Input/output error"


def test_a_sparse_file_is_refused_by_its_size(tmp_path):
    path = tmp_path / "sparse"
    with path.open("wb") as file:
        file.truncate(1 << 40)
    assert refusal(path) == "it is larger than 100 bytes"


def test_a_lock_is_for_one_at_a_time_and_leaves_no_file(tmp_path):
    path = tmp_path / ".lock"
    with locked(path):
        with pytest.raises(Timeout), locked(path):
            pass
        assert path.exists()
    assert not path.exists()
    with locked(path):
        pass


def test_a_lock_path_that_is_not_a_file_is_not_waited_for(tmp_path):
    path = tmp_path / ".lock"
    system.make_pipe(path)
    with pytest.raises(OSError, match="it is a pipe, not a file"), locked(path):
        pass


def test_a_lock_that_was_removed_while_it_was_waited_for_is_taken_anew(tmp_path, monkeypatch):
    """Otherwise two processes would hold a lock each: on the removed file and on the new one."""
    path, taken = tmp_path / ".lock", []

    class Removed(files.FileLock):
        def acquire(self, *arguments, **options):
            result = super().acquire(*arguments, **options)
            taken.append(path.stat().st_ino)
            if len(taken) == 1:
                path.rename(tmp_path / "gone")
            return result

    monkeypatch.setattr(files, "FileLock", Removed)
    with locked(path):
        assert len(taken) == 2
        assert path.stat().st_ino == taken[1] != taken[0]


def test_on_windows_a_file_is_read_as_it_is(monkeypatch, tmp_path):
    """There, since Python 3.12, os.set_blocking only accepts pipes."""

    def refuse(*_):
        raise OSError(errno.EINVAL, "not a pipe")

    (tmp_path / "file").write_bytes(b"content")
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setattr(os, "set_blocking", refuse, raising=False)
    assert read_file(tmp_path / "file", most=100) == b"content"


def test_a_tree_is_synced_with_all_files_and_folders(tmp_path, monkeypatch):
    for name in ("a", "one/b", "one/two/c"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    synced, fsync = [], os.fsync

    def noted(descriptor):
        synced.append(os.fstat(getattr(descriptor, "fileno", lambda: descriptor)()).st_ino)
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", noted)
    files.sync_tree(tmp_path)
    assert sorted(synced) == sorted(path.stat().st_ino for path in (tmp_path, *tmp_path.rglob("*")))
