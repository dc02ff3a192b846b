"""The lock of a file: one process at a time, and nothing left behind."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from clipret.cache import access, file_lock, open_writer
from clipret.errors import CacheError, CacheLockedError, RunError
from tests.conftest import contents

needs_flock = pytest.mark.skipif(access.fcntl is None, reason="filelock's own affair")


def test_no_lock_file_is_left_behind(tmp_path):
    with open_writer(tmp_path / "made.h5", contents()):
        assert sorted(entry.name for entry in tmp_path.iterdir()) == ["made.h5", "made.h5.lock"]
    assert [entry.name for entry in tmp_path.iterdir()] == ["made.h5"]


def test_a_lock_is_released_and_removed_after_an_error(tmp_path):
    with pytest.raises(ZeroDivisionError), file_lock(tmp_path / "lock", refusal=RunError("busy")):
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []


def test_whoever_comes_second_is_refused_in_the_callers_words(tmp_path):
    path = tmp_path / "lock"
    with file_lock(path, refusal=RunError("first")):
        with pytest.raises(RunError, match=r"^another training writes here$"):
            enter(path, refusal=RunError("another training writes here"))
        assert path.exists(), "it is the first one's"
    enter(path, refusal=RunError("busy"))


def enter(path, *, refusal):
    with file_lock(path, refusal=refusal, seconds=0):
        pass


@needs_flock
def test_a_lock_on_a_removed_lock_file_does_not_count(tmp_path, monkeypatch):
    """The waiting process locks a file that the holder removed, while a third process has created a new one."""
    path, opened = tmp_path / "lock", []
    real = os.open

    def open_and_lose(name, *words, **values):
        descriptor = real(name, *words, **values)
        if not opened:
            path.unlink()
            path.write_text("")
        opened.append(descriptor)
        return descriptor

    with monkeypatch.context() as patch:
        patch.setattr(access.os, "open", open_and_lose)
        with file_lock(path, refusal=RunError("busy")):
            assert len(opened) == 2
            with pytest.raises(RunError, match="busy"):
                enter(path, refusal=RunError("busy"))
    assert not path.exists()


@needs_flock
def test_a_lock_file_that_a_killed_process_left_is_in_nobodys_way(tmp_path):
    program = (
        "import os, sys; from pathlib import Path; from clipret.cache import file_lock\n"
        "with file_lock(Path(sys.argv[1]), refusal=ValueError()): os._exit(9)\n"
    )
    child = subprocess.run([sys.executable, "-c", program, tmp_path / "lock"], check=False)
    assert child.returncode == 9
    assert (tmp_path / "lock").exists()
    enter(tmp_path / "lock", refusal=RunError("busy"))
    assert list(tmp_path.iterdir()) == []


@needs_flock
def test_of_many_processes_one_at_a_time_has_the_lock(tmp_path):
    """Each reads a number and writes the next one; no update is lost."""
    (tmp_path / "number").write_text("0")
    program = (
        "import sys; from pathlib import Path; from clipret.cache import file_lock\n"
        "folder = Path(sys.argv[1]); number = folder / 'number'\n"
        "for _ in range(40):\n"
        "    with file_lock(folder / 'lock', refusal=ValueError(), seconds=60):\n"
        "        number.write_text(str(int(number.read_text()) + 1))\n"
    )
    children = [subprocess.Popen([sys.executable, "-c", program, tmp_path]) for _ in range(3)]
    assert [child.wait(timeout=120) for child in children] == [0, 0, 0]
    assert (tmp_path / "number").read_text() == "120"
    assert [entry.name for entry in tmp_path.iterdir()] == ["number"]


def test_a_lock_that_cannot_be_made_is_one_line(tmp_path):
    (tmp_path / "made.h5.lock").mkdir()
    with pytest.raises(CacheError, match=r"^cannot write .*made.h5.lock: Is a directory. Finished rows are kept"):
        enter(Path(tmp_path / "made.h5.lock"), refusal=CacheLockedError("busy"))
