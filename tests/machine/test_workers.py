import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from clipret.machine.workers import ReadWatch, calm_worker_signals

LINUX = sys.platform.startswith("linux")


class Reading(Dataset):
    """Item i records that it reads row 100 + i, and sleeps."""

    def __init__(self, watch, seconds):
        self.watch, self.seconds = watch, seconds

    def __len__(self):
        return 2

    def __getitem__(self, index):
        with self.watch.reading(100 + index):
            time.sleep(self.seconds)
        return index


def seen_while(loader, watch) -> set:
    """Everything that the watch showed until the loader was exhausted, and the longest times."""
    rows, longest = set(), {}
    results = iter(loader)
    until = time.monotonic() + 30
    while rows != {100, 101} and time.monotonic() < until:
        rows |= set(watch.being_read())
        longest |= dict(watch.stuck(0.05))
        time.sleep(0.01)
    while len(longest) < 2 and time.monotonic() < until:
        longest |= dict(watch.stuck(0.05))
    assert sorted(results) == [0, 1]
    return rows, longest


@pytest.mark.parametrize("method", sorted({"spawn", *(["fork"] if LINUX else [])}))
@pytest.mark.ci
def test_what_each_worker_reads_is_seen_from_outside(method):
    watch = ReadWatch(2)
    loader = DataLoader(Reading(watch, 1.0), batch_size=None, num_workers=2, multiprocessing_context=method)
    rows, longest = seen_while(loader, watch)
    assert rows == {100, 101}
    assert longest.keys() == {100, 101}
    assert all(0.05 < seconds < 1.5 for seconds in longest.values())
    assert (watch.being_read(), watch.stuck(0)) == ([], [])


def test_without_workers_the_only_process_is_watched():
    watch = ReadWatch(0)
    assert (watch.being_read(), watch.stuck(0)) == ([], [])
    with watch.reading(0):
        assert watch.being_read() == [0]
        assert watch.stuck(60) == []
        time.sleep(0.03)
        ((row, seconds),) = watch.stuck(0.02)
        assert row == 0
        assert 0.02 < seconds < 5
    with pytest.raises(KeyError), watch.reading(7):
        raise KeyError
    assert watch.being_read() == []


def test_the_row_that_has_been_read_longest_comes_first(monkeypatch):
    watch = ReadWatch(2)
    for slot, (row, since) in enumerate([(5, 30.0), (1_000_000_007, 10.0), (3, 20.0)]):
        watch._view[slot] = row, since
    monkeypatch.setattr(time, "monotonic", lambda: 40.0)
    assert watch.stuck(10) == [(1_000_000_007, 30.0), (3, 20.0)]
    assert watch.being_read() == [3, 5, 1_000_000_007]


def test_a_pickled_watch_can_be_written():
    again = pickle.loads(pickle.dumps(ReadWatch(1)))
    with again.reading(4):
        assert again.being_read() == [4]


def handlers(queue):
    calm_worker_signals(3)
    os.kill(os.getpid(), signal.SIGINT)
    queue.put((signal.getsignal(signal.SIGTERM) == signal.SIG_DFL, torch.get_num_threads()))
    time.sleep(60)


@pytest.mark.skipif(sys.platform == "win32", reason="there are no signals")
def test_a_worker_ignores_ctrl_c_and_is_ended_by_sigterm_whatever_its_parent_does():
    before = signal.signal(signal.SIGTERM, lambda *_: None)
    context = multiprocessing.get_context("fork" if LINUX else "spawn")
    try:
        queue = context.SimpleQueue()
        worker = context.Process(target=handlers, args=(queue,), daemon=True)
        worker.start()
        assert queue.get() == (True, 1)
        os.kill(worker.pid, signal.SIGTERM)
        worker.join(timeout=20)
        assert worker.exitcode == -signal.SIGTERM
    finally:
        signal.signal(signal.SIGTERM, before)


ORPHANS = """
    import multiprocessing, os, sys, time
    from clipret.machine.workers import calm_worker_signals

    def work(number, parent_dies_first):
        if parent_dies_first:
            time.sleep(0.5)
        calm_worker_signals(number)
        print(os.getpid(), flush=True)
        while True:
            sum(range(10_000))

    if __name__ == "__main__":
        context = multiprocessing.get_context(sys.argv[1])
        early = sys.argv[2] == "early"
        workers = [context.Process(target=work, args=(number, early)) for number in range(2)]
        for worker in workers:
            worker.start()
        if early:
            print(*(worker.pid for worker in workers), sep="\\n", flush=True)
        time.sleep(60)
"""


def is_running(pid: int) -> bool:
    """Whether there is such a process, and it has not ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.skipif(not LINUX, reason="only Linux ends processes with their parent")
@pytest.mark.parametrize(("method", "moment"), [("fork", "late"), ("spawn", "late"), ("fork", "early")])
@pytest.mark.ci
def test_workers_die_with_the_process_that_started_them(method, moment, tmp_path):
    """Killed while they compute, or before they called prctl."""
    script = tmp_path / "orphans.py"
    script.write_text(textwrap.dedent(ORPHANS))
    parent = subprocess.Popen([sys.executable, script, method, moment], stdout=subprocess.PIPE, text=True)
    workers = [int(parent.stdout.readline()) for _ in range(2)]
    assert all(map(is_running, workers))
    parent.kill()
    parent.wait()
    until = time.monotonic() + 10
    while any(map(is_running, workers)) and time.monotonic() < until:
        time.sleep(0.01)
    assert not any(map(is_running, workers))
    parent.stdout.close()
