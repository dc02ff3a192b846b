import ctypes
import os
import subprocess
import sys
import types

import pytest

from clipret.machine import memory
from clipret.machine.memory import available_memory

GIB = 1 << 30


@pytest.fixture
def no_meminfo(monkeypatch, tmp_path):
    monkeypatch.setattr(memory, "_MEMINFO", tmp_path / "meminfo")
    return tmp_path / "meminfo"


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="there is no /proc")
def test_on_linux_it_is_what_the_kernel_says():
    assert 1 << 20 < available_memory() <= os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


@pytest.mark.parametrize("text", [None, "", "MemTotal: 8 kB\n", "MemAvailable:", "MemAvailable: many kB"])
def test_without_it_all_memory_counts(no_meminfo, monkeypatch, text):
    if text is not None:
        no_meminfo.write_text(text)
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(os, "sysconf", {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": 1000}.__getitem__, raising=False)
    assert available_memory() == 4_096_000


def test_a_system_that_reports_no_memory_is_no_error(no_meminfo, monkeypatch):
    monkeypatch.setattr(sys, "platform", "emscripten")
    monkeypatch.delattr(os, "sysconf", raising=False)
    assert available_memory() is None


@pytest.mark.parametrize(("succeeded", "expected"), [(1, 3 * GIB), (0, None)])
def test_windows_is_asked_in_its_own_words(no_meminfo, monkeypatch, succeeded, expected):
    def answer(reference):
        status = ctypes.cast(reference, ctypes.POINTER(memory._MemoryStatus)).contents
        assert status.length == 64
        status.total, status.available = 8 * GIB, 3 * GIB
        return succeeded

    monkeypatch.setattr(sys, "platform", "win32")
    kernel = types.SimpleNamespace(GlobalMemoryStatusEx=answer)
    monkeypatch.setattr(ctypes, "windll", types.SimpleNamespace(kernel32=kernel), raising=False)
    monkeypatch.delattr(os, "sysconf", raising=False)
    assert available_memory() == expected


@pytest.mark.ci
def test_importing_everything_needs_no_sysconf():
    """Nor what else Windows lacks."""
    code = (
        "import os, signal, sys\n"
        "for name in ('sysconf', 'fork', 'sched_getaffinity', 'pread', 'pwrite', 'preadv', 'set_blocking'):\n"
        "    delattr(os, name) if hasattr(os, name) else None\n"
        "for name in ('SIGKILL', 'SIGCHLD'):\n"
        "    delattr(signal, name) if hasattr(signal, name) else None\n"
        "sys.modules['fcntl'] = sys.modules['resource'] = None\n"
        "import importlib, pkgutil, clipret\n"
        "for module in pkgutil.walk_packages(clipret.__path__, 'clipret.'):\n"
        "    if module.name != 'clipret.__main__':\n"
        "        importlib.import_module(module.name)\n"
    )
    result = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, timeout=120, check=False
    )
    assert (result.returncode, result.stderr) == (0, "")
