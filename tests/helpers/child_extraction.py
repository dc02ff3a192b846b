"""Extractions to be killed. Preloaded by the server that forks them, so that they start in milliseconds."""

import os
import signal
import sys
import time

import torch

from clipret import cli
from clipret.backbones.clip_package import import_clip
from clipret.extraction import extract
from clipret.extraction.job import Job

import_clip()


def extract_counting(settings, batches, pause=0.0):
    """Extract, counting in the shared integer `batches` what has been written; pause: seconds after each batch."""
    torch.set_num_threads(1)

    def count(progress):
        batches.value += 1
        time.sleep(pause)

    extract(settings, on_progress=count)


def extract_slowly(words, batches, stderr):
    """Run the command line, pausing after every batch, with standard error in the file `stderr`."""
    torch.set_num_threads(1)
    real = Job._report

    def report(self, *arguments, **values):
        batches.value += 1
        time.sleep(0.05)
        real(self, *arguments, **values)

    Job._report = report
    with stderr.open("w") as file:
        os.dup2(file.fileno(), 2)
        sys.exit(cli.main(words))


def kill_extraction(config, context, *, batches=8, pause=0.0, delay=0.0, seconds=120) -> None:
    """Start an extraction in a process of this context of multiprocessing, and kill it after some batches.

    pause  seconds that it waits after each batch, so that the kill is within a few batches of the moment
    delay  seconds from the last of those batches to the kill
    """
    count = context.Value("i", 0)
    child = context.Process(target=extract_counting, args=(config, count, pause))
    child.start()
    deadline = time.monotonic() + seconds
    while count.value < batches and time.monotonic() < deadline:
        time.sleep(0.002)
    time.sleep(delay)
    os.kill(child.pid, signal.SIGKILL)
    child.join(30)
    assert child.exitcode == -signal.SIGKILL
