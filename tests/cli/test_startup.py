"""What commands import: those that need no torch start without it."""

import gc
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from clipret import cli
from tests.conftest import contents, write_cache
from tests.helpers.ranked import random_head, write_run

CHECK = """
import sys
from clipret import cli
status = cli.main(sys.argv[2:])
assert status == 0, status
loaded = set(sys.argv[1].split(",")) & set(sys.modules)
assert not loaded, loaded
"""
SLOW = "torch,numba,torchvision,clip,scipy"


@pytest.mark.parametrize(
    ("words", "absent"),
    [
        (("--version",), f"{SLOW},h5py"),
        (("--help",), f"{SLOW},h5py"),
        pytest.param(("eval", "--help"), f"{SLOW},h5py", marks=pytest.mark.ci),
        pytest.param(("reproduce", "--list"), f"{SLOW},h5py", marks=pytest.mark.ci),
        (("models", "siglip"), f"{SLOW},h5py,open_clip,transformers,huggingface_hub"),
        (("info", "a.h5"), SLOW),
        pytest.param(("merge", "a.h5", "b.h5", "--out", "both.h5"), SLOW, marks=pytest.mark.ci),
        (("compare", "runs/a", "runs/b", "zero-shot"), "torch,numba,h5py,torchvision,clip"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_commands_that_need_no_torch_do_not_import_it(tmp_path, monkeypatch, words, absent):
    monkeypatch.chdir(tmp_path)
    if ".h5" in " ".join(words):
        write_cache(Path("a.h5"))
        others = {name: [f"b{own}" for own in getattr(contents(), name)] for name in ("image_ids", "caption_ids")}
        write_cache(Path("b.h5"), contents(**others))
    if "compare" in words:
        heads = [random_head(np.random.default_rng(seed), counts=np.full(30, 2)) for seed in range(3)]
        for name, head, loss in (("a", heads[1], "margin"), ("b", heads[2], "infonce")):
            write_run(Path("runs", name), head, heads[0], config={"loss": loss})
    done = subprocess.run([sys.executable, "-c", CHECK, absent, *words], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


ENDING = """
import atexit, sys, threading
if sys.argv.pop(1) == "torch":
    import torch
from clipret.__main__ import run
event = threading.Event()
def late():
    event.wait()
    print("thread")
if sys.argv.pop(1) == "thread":
    threading.Thread(target=late).start()
atexit.register(event.set)
atexit.register(print, "at exit")
threading.Timer(1, event.set).start() if threading.active_count() > 1 else None
run()
"""


@pytest.mark.parametrize("library", ["none", pytest.param("torch", marks=pytest.mark.ci)])
@pytest.mark.parametrize(
    ("words", "status", "said"), [(("--version",), 0, "."), (("info", "absent.h5"), 1, ""), (("no-command",), 2, "")]
)
def test_the_process_ends_with_the_status_and_what_was_registered_for_its_end(library, words, status, said):
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", ENDING, library, "no", *words],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == status
    assert said in done.stdout
    assert done.stdout.endswith("at exit\n")
    assert bool(status) == bool(done.stderr)


@pytest.mark.ci
def test_the_end_of_the_process_waits_for_its_threads():
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", ENDING, "torch", "thread", "--version"],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0
    assert sorted(done.stdout.splitlines()[1:]) == ["at exit", "thread"]


@pytest.fixture(params=[True, False], ids=["on", "off"])
def collecting(request):
    """Whether garbage is collected; afterwards it is as it was."""
    before = gc.isenabled()
    (gc.enable if request.param else gc.disable)()
    yield request.param
    (gc.enable if before else gc.disable)()


def test_who_calls_main_has_garbage_collected_as_before(tmp_path, collecting, capsys):
    write_cache(tmp_path / "a.h5")
    assert cli.main(["verify", str(tmp_path / "a.h5"), "--quiet"]) == 0
    assert gc.isenabled() == collecting


STAGE = """
import gc
import os
from clipret.errors import ClipretError
from clipret.extraction import verification
def verify(config, on_progress):
    raise ClipretError(f"collected: {gc.isenabled()}")
verification.verify = verify
from clipret.__main__ import run
run()
"""


def test_the_command_collects_garbage_when_its_work_begins():
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", STAGE, "verify", "a.h5"], capture_output=True, text=True, timeout=120
    )
    assert (done.returncode, done.stderr) == (1, "error: collected: True\n")


OWN = """
from clipret.machine.own_code import open_code
open_code("mine.py:loss", named=True).load()
from clipret.__main__ import run
run()
"""


def test_files_that_own_code_left_open_have_their_last_lines(tmp_path):
    (tmp_path / "mine.py").write_text('log = open("log.txt", "w")\nlog.write("last line")\ndef loss(): ...\n')
    places = {"PYTHONPATH": str(Path(cli.__file__).parents[2]), "XDG_STATE_HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", OWN, "no-command"],
        cwd=tmp_path,
        env=os.environ | places,
        capture_output=True,
        timeout=120,
    )
    assert done.returncode == 2
    assert (tmp_path / "log.txt").read_text() == "last line"
