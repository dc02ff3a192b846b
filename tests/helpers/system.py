"""What only some systems and some users can do; where it cannot be done, the test that asks for it is skipped."""

import contextlib
import os
import shutil
import subprocess

import pytest

# Windows has no such user.
IS_ROOT = hasattr(os, "geteuid") and os.geteuid() == 0


def make_pipe(path):
    """A named pipe, which whoever opens it waits at."""
    if not hasattr(os, "mkfifo"):
        pytest.skip("there are no named pipes")
    os.mkfifo(path)


@contextlib.contextmanager
def small_disk(folder, *, megabytes):
    """Inside, the folder, which is made, is a disk of so many megabytes."""
    folder.mkdir()
    words = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", folder]
    if not IS_ROOT or not shutil.which("mount") or subprocess.run(words, capture_output=True, check=False).returncode:
        pytest.skip("needs the right to mount a disk")
    try:
        yield folder
    finally:
        # Lazily: a failed test may still have a file open there.
        subprocess.run(["umount", "-l", folder], check=True)
