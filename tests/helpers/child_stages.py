"""A command line over a made-up stage, to be interrupted: child_stages.py STAGE [--quiet]. It writes where it is."""

import os
import sys
import time
from pathlib import Path

from clipret.cli import running
from clipret.machine.progress import Progress


def say(text):
    """Tell the test, which reads standard output."""
    # Past what the command line makes of standard output while a stage runs.
    sys.__stdout__.write(f"{text}\n")
    sys.__stdout__.flush()


def steps(config, *, on_progress):
    """Batches of half a second, each reported after it."""
    try:
        for step in range(1, 100):
            say(f"begin {step}")
            until = time.monotonic() + 0.5
            while time.monotonic() < until:
                time.sleep(0.01)
            say(f"end {step}")
            on_progress(Progress("steps", step, 100))
    finally:
        say("closed")
    return {}


def last(config, *, on_progress):
    """One report, then a second without any, then the end."""
    on_progress(Progress("steps", 1, 2))
    say("begin 2")
    until = time.monotonic() + 1
    while time.monotonic() < until:
        time.sleep(0.01)
    return {"finished": True}


def loading(config, *, on_progress):
    """Never reports anything."""
    try:
        say("begin 1")
        time.sleep(60)
    finally:
        say("closed")


def stubborn(config, *, on_progress):
    """Reports once, and then takes no KeyboardInterrupt for an answer."""
    on_progress(Progress("steps", 1, 2))
    say("begin 2")
    while True:
        try:
            time.sleep(60)
        except KeyboardInterrupt:
            say("ignored")


def failing(config, *, on_progress):
    """Answers an interruption with another error."""
    on_progress(Progress("steps", 1, 2))
    say("begin 2")
    try:
        time.sleep(60)
    except KeyboardInterrupt:
        raise RuntimeError("a worker was killed") from None


def with_workers(config, *, on_progress):
    """Two worker processes in one long computation each, after a short one."""
    from torch.utils.data import DataLoader

    from clipret.machine.workers import calm_worker_signals

    loader = DataLoader(
        _Numbers(), batch_size=None, num_workers=2, multiprocessing_context="fork", worker_init_fn=calm_worker_signals
    )
    for number, pid in loader:
        on_progress(Progress("steps", number + 1, 8))
        say(f"worker {pid}")
    return {}


class _Numbers:
    def __len__(self):
        return 8

    def __getitem__(self, index):
        until = time.monotonic() + (60 if index > 1 else 0)
        while time.monotonic() < until:
            sum(range(10_000))
        return index, os.getpid()


if __name__ == "__main__":
    from clipret import cli

    @cli.app.command()
    def stage(name: str, quiet: bool = False):
        """Run the stage of that name."""
        result = running.run(globals()[name], Path(), quiet=quiet, on_interrupt="go on with: again")
        running.show(result, as_json=True)

    sys.exit(cli.main(["stage", *sys.argv[1:]]))
