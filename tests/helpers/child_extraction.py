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


def extract_counting(settings, batches):
    """Extract, counting in the shared integer `batches` what has been written."""
    torch.set_num_threads(1)

    def count(progress):
        batches.value += 1

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


def kill_extraction(config, context, *, batches=8, seconds=120) -> None:
    """Start an extraction in a process of this context of multiprocessing, and kill it after some batches."""
    count = context.Value("i", 0)
    child = context.Process(target=extract_counting, args=(config, count))
    child.start()
    deadline = time.monotonic() + seconds
    while count.value < batches and time.monotonic() < deadline:
        time.sleep(0.002)
    os.kill(child.pid, signal.SIGKILL)
    child.join(30)
    assert child.exitcode == -signal.SIGKILL
