"""Extraction by several processes, started by torchrun as a user starts them."""

import os
import shutil
import subprocess
import sys
import threading
import time

import h5py
import numpy as np
import pytest
from torch import distributed

from clipret import EvalConfig, ExtractConfig, FeatureCache, TrainConfig, evaluate, extract, train
from clipret.errors import CacheError, UsageError
from clipret.extraction import planning
from clipret.extraction import processes as ranks
from clipret.extraction.processes import Rank, Together, current_rank
from tests.conftest import StopAfter, write_coco
from tests.helpers import HELPERS, REPOSITORY
from tests.helpers.caches import arrays

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="gloo on one machine, as on Linux")


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A COCO folder in which some images and captions are equal, also far apart."""
    root = write_coco(tmp_path_factory.mktemp("coco"), train=110, test=20)
    paths = sorted((root / "train2017").iterdir())
    for copy, original in ((5, 4), (100, 3), (60, 59), (101, 50)):
        shutil.copy(paths[original], paths[copy])
    annotations = root / "annotations" / "captions_val2017.json"
    annotations.write_text(annotations.read_text().replace('"caption": "a ', '"caption": "man dog", "was": "'))
    return root


@pytest.fixture
def options(root, checkpoints, tmp_path):
    """Options of clipret extract, for a cache of that name."""

    def make(name, *, model="transformer", batch_size=4):
        words = ["--dataset", "coco", "--root", root, "--model", checkpoints[model], "--batch-size", batch_size]
        return [str(word) for word in [*words, "--device", "cpu", "--workers", 1, "--out", tmp_path / name]]

    return make


@pytest.fixture
def whole(root, checkpoints, tmp_path):
    """The cache that one process makes."""
    out = tmp_path / "whole.h5"
    extract(config(root, checkpoints, out))
    return out


def config(root, checkpoints, out, **changes):
    values = {"dataset": "coco", "root": root, "model": str(checkpoints["transformer"]), "out": out, "batch_size": 4}
    return ExtractConfig(**(values | {"workers": 1, "device": "cpu"} | changes))


def torchrun(processes, *words, restarts=0):
    """Run a module or script under torchrun; returns what it printed."""
    start = ["--standalone", f"--nproc-per-node={processes}", f"--max-restarts={restarts}"]
    command = [sys.executable, "-m", "torch.distributed.run", *start, *map(str, words)]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "PYTHONWARNINGS": "ignore"}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)


@pytest.mark.parametrize("processes", [2, pytest.param(4, marks=pytest.mark.slow)])
@pytest.mark.ci
def test_several_processes_make_the_cache_that_one_makes_byte_for_byte(options, whole, tmp_path, processes):
    done = torchrun(processes, "-m", "clipret", "extract", *options("several.h5"))
    assert done.returncode == 0, done.stderr
    assert f"130 images and {len(FeatureCache(whole).captions):,} captions by {processes} processes" in done.stdout
    assert arrays(tmp_path / "several.h5") == arrays(whole)
    assert not (tmp_path / "several.h5.shards").exists()


# `last`: torchrun's store outlives the restart, and holds that the other process had come to the end of its share.
@pytest.mark.parametrize("batches", [6, "last"])
@pytest.mark.ci
def test_a_killed_process_is_restarted_and_the_cache_is_the_same(options, whole, tmp_path, batches):
    marker = tmp_path / "killed"
    script = HELPERS / "child_rank.py"
    done = torchrun(2, script, marker, 1, batches, *options("several.h5"), restarts=1)
    assert marker.exists(), "the process was killed on the way"
    assert done.returncode == 0, done.stderr
    assert arrays(tmp_path / "several.h5") == arrays(whole)


@pytest.mark.ci
def test_a_killed_process_without_restarts_leaves_what_the_same_command_completes(
    options, whole, tmp_path, root, checkpoints
):
    out, script = tmp_path / "several.h5", HELPERS / "child_rank.py"
    done = torchrun(2, script, tmp_path / "killed", 0, 3, *options("several.h5"))
    assert done.returncode != 0
    assert not out.exists()
    with pytest.raises(CacheError) as caught:
        extract(config(root, checkpoints, out))
    assert str(caught.value) == (
        f"{out} was started by 2 processes; continue with as many (torchrun --nproc-per-node 2), or delete the folder "
        f"{out}.shards to start again."
    )
    done = torchrun(2, "-m", "clipret", "extract", *options("several.h5"))
    assert done.returncode == 0, done.stderr
    assert arrays(out) == arrays(whole)


@pytest.mark.ci
def test_problems_of_all_processes_together_are_held_against_the_limit(root, checkpoints, tmp_path, options):
    spoiled = tmp_path / "spoiled"
    shutil.copytree(root, spoiled)
    paths = sorted((spoiled / "train2017").iterdir())
    for row in (2, 90):
        paths[row].write_bytes(b"not an image")
    words = [str(spoiled) if word == str(root) else word for word in options("several.h5")]
    done = torchrun(2, "-m", "clipret", "extract", *words, "--max-problems", "0.01")
    assert done.returncode != 0
    assert "error: 2 of 130 images (1.5 %) cannot be read, more than --max-problems 0.01 allows" in done.stderr
    done = torchrun(2, "-m", "clipret", "extract", *words, "--max-problems", "0.02")
    assert done.returncode == 0, done.stderr
    assert sorted(FeatureCache(tmp_path / "several.h5").problems) == [2, 90]


@pytest.mark.ci
def test_unmerged_shards_are_a_cache_to_train_on_to_move_and_to_merge(options, whole, tmp_path):
    done = torchrun(2, "-m", "clipret", "extract", *options("apart.h5"), "--no-merge")
    assert done.returncode == 0, done.stderr
    (tmp_path / "moved").mkdir()
    for name in ("apart.h5", "apart.h5.shards"):
        (tmp_path / name).rename(tmp_path / "moved" / name)
    moved = tmp_path / "moved" / "apart.h5"
    assert arrays(moved) == arrays(whole)
    with h5py.File(moved) as file:
        assert file["image/features"].is_virtual
    results = []
    for cache in (moved, whole):
        run = train(TrainConfig(cache=cache, runs_dir=tmp_path / "runs", epochs=2))["run"]
        results.append(evaluate(EvalConfig(head=run, cache=cache))["results"])
    assert results[0] == results[1]
    moved.rename(tmp_path / "apart.h5")
    (tmp_path / "moved" / "apart.h5.shards").rename(tmp_path / "apart.h5.shards")
    done = torchrun(2, "-m", "clipret", "extract", *options("apart.h5"))
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "apart.h5.shards").exists()
    assert arrays(tmp_path / "apart.h5") == arrays(whole)


def test_processes_do_not_go_on_with_what_one_has_begun(root, checkpoints, tmp_path, monkeypatch):
    from clipret.extraction import stage

    out = tmp_path / "begun.h5"
    with pytest.raises(KeyboardInterrupt):
        extract(config(root, checkpoints, out), on_progress=StopAfter(3))
    with pytest.raises(CacheError, match=r"begun\.h5 was started by one process; continue with: clipret extract "):
        stage._begun(config(root, checkpoints, out), Rank(0, 2))
    extract(config(root, checkpoints, out))
    assert stage._begun(config(root, checkpoints, out), Rank(0, 2))
    with pytest.raises(
        CacheError, match=r"is complete; retry its unreadable images with one process: clipret extract "
    ):
        stage._begun(config(root, checkpoints, out, retry_problems=True), Rank(0, 2))


def test_without_torchrun_there_is_one_process(monkeypatch):
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    assert current_rank() == Rank(0, 1, 0, 1)
    for name, value in (("RANK", 5), ("WORLD_SIZE", 8), ("LOCAL_RANK", 1), ("LOCAL_WORLD_SIZE", 4)):
        monkeypatch.setenv(name, str(value))
    assert current_rank() == Rank(0, 1, 0, 1)
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    assert current_rank() == Rank(5, 8, 1, 4)


def test_each_process_has_a_gpu_of_its_own_or_says_what_is_missing(monkeypatch):
    current = []
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.setattr("torch.cuda.set_device", current.append)
    assert Rank().device("cuda") == "cuda"
    assert Rank(3, 4, 1, 2).device("cuda") == "cuda:1"
    assert current == ["cuda:1"]
    assert Rank(3, 4, 3, 4).device("cpu") == "cpu"
    with pytest.raises(UsageError) as caught:
        Rank(2, 4, 2, 4).device("cuda")
    assert str(caught.value) == (
        "torchrun started 4 processes on this machine, but torch sees 2 GPUs; use one process a GPU: --nproc-per-node 2"
    )


def test_the_command_that_goes_on_starts_as_many_processes():
    settings = ExtractConfig(dataset="coco", batch_size=8)
    assert Rank().command(settings) == "clipret extract --dataset coco --batch-size 8"
    expected = "torchrun --nproc-per-node 4 -m clipret extract --dataset coco --batch-size 8"
    assert Rank(1, 4, 1, 4).command(settings) == expected
    assert Rank(1, 8, 1, 4).command(settings).startswith("torchrun --nnodes 2 --nproc-per-node 4 -m clipret extract ")


@pytest.mark.parametrize("total", [0, 1, 31, 32, 33, 1000, 123_287])
@pytest.mark.parametrize("count", [1, 2, 3, 8])
def test_processes_own_whole_blocks_of_rows_that_follow_each_other(total, count):
    for side, block in (("image", 32), ("text", 32 * planning.BLOCK_BATCHES)):
        owned = [planning.own_rows(side, total, batch_size=32, rank=Rank(index, count)) for index in range(count)]
        assert [row for rows in owned for row in rows] == list(range(total))
        assert all(rows.start % block == 0 or not len(rows) for rows in owned)
        sizes = [-(-len(rows) // block) for rows in owned]
        assert max(sizes) - min(sizes) <= 1


def in_threads(count, body, *, store=None):
    """What `body` returns in each of several processes, here threads, with one store."""
    from concurrent.futures import ThreadPoolExecutor

    store = store or distributed.HashStore()
    togethers = [Together(Rank(index, count, index, count), store) for index in range(count)]
    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(body, range(count), togethers))


def test_all_processes_know_what_the_first_one_found(monkeypatch):
    monkeypatch.setattr(ranks, "_PIECE_BYTES", 100)
    monkeypatch.setattr(ranks, "_POLL_SECONDS", 0.001)
    for copies in (0, 1, 57):
        values = np.arange(200)
        values[100 : 100 + copies] = np.arange(copies)
        shared = in_threads(
            4, lambda index, together, v=values: together.share(lambda: v if not index else 1 / 0, count=200)
        )
        assert all(np.array_equal(values, received) for received in shared)


def test_no_process_goes_on_before_all_have_come_and_the_first_leaves_last(monkeypatch):
    monkeypatch.setattr(ranks, "_POLL_SECONDS", 0.001)
    events = []

    def body(index, together):
        for number in range(3):
            time.sleep(0.01 * index)
            events.append((number, "comes"))
            together.wait()
            events.append((number, "goes"))
        together.leave()
        events.append((3, index))

    in_threads(3, body)
    for number in range(3):
        last_to_come = max(place for place, event in enumerate(events) if event == (number, "comes"))
        assert last_to_come < events.index((number, "goes"))
    assert events[-1] == (3, 0)


def test_what_processes_of_an_earlier_start_have_said_is_not_heard(monkeypatch):
    monkeypatch.setattr(ranks, "_POLL_SECONDS", 0.001)
    store, arrived = distributed.HashStore(), []
    both = threading.Barrier(2)

    def killed(index, together):
        together.meet()
        assert together.share(lambda: np.array([0, 0]), count=2).tolist() == [0, 0]
        # The third is killed before it comes to the others, which wait for it.
        if index < 2:
            together._ask("add", "round 1", 1)
            both.wait()

    def restarted(index, together):
        time.sleep(0.02 * index)
        together.meet()
        assert together.share(lambda: np.array([0, 1, 0]), count=3).tolist() == [0, 1, 0]
        time.sleep(0.05 * index)
        arrived.append(index)
        together.wait()
        assert len(arrived) == 3
        together.leave()

    in_threads(3, killed, store=store)
    in_threads(3, restarted, store=store)


def test_a_process_that_nobody_answers_waits_where_it_can_be_interrupted(monkeypatch):
    monkeypatch.setattr(ranks, "_POLL_SECONDS", 0.001)
    store = distributed.HashStore()
    for index in (0, 1):
        with pytest.raises(KeyboardInterrupt):
            Together(Rank(index, 2), store, on_progress=StopAfter(3)).meet()
    # Both have been here, but at different times.
    with pytest.raises(KeyboardInterrupt):
        Together(Rank(0, 2), store, on_progress=StopAfter(3)).meet()


def test_the_first_process_of_a_machine_loads_the_model_before_the_others(monkeypatch):
    monkeypatch.setattr(ranks, "_POLL_SECONDS", 0.001)
    order = []

    def body(index, together):
        with together.first_on_a_machine():
            time.sleep(0.02)
            order.append(index)

    in_threads(3, body)
    assert order[0] == 0


def test_a_process_that_waits_reports_so_that_it_can_be_interrupted(monkeypatch):
    monkeypatch.setattr(ranks, "_POLL_SECONDS", 0.001)

    def interrupt(progress):
        assert (progress.phase, progress.done, progress.total) == ("processes", 1, 2)
        raise KeyboardInterrupt

    together = Together(Rank(1, 2), distributed.HashStore(), on_progress=interrupt)
    with pytest.raises(KeyboardInterrupt):
        together.wait()
    with pytest.raises(KeyboardInterrupt):
        together.share(lambda: None, count=3)


def test_a_store_that_is_gone_is_one_clear_line():
    class Gone:
        def add(self, *_):
            raise RuntimeError("Broken pipe")

    with pytest.raises(CacheError, match=r"^torchrun or its first process has ended; "):
        Together(Rank(1, 2), Gone()).wait()
