import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import typer

from clipret.cli import interrupts
from clipret.cli.running import run
from clipret.machine.progress import Progress
from tests.helpers import HELPERS

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="there are no such signals")

FINISHING = "finishing the batch; Ctrl-C again stops at once"
STATUS = {signal.SIGINT: 130, signal.SIGTERM: 143}
WORD = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated"}


class Child:
    """A process that runs a stage of child_stages; what it writes is read line by line."""

    def __init__(self, stage, *options, start_new_session=False):
        self._process = subprocess.Popen(
            [sys.executable, HELPERS / "child_stages.py", stage, *options],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=start_new_session,
        )
        self.pid = self._process.pid
        self.lines, self.told = [], []
        streams = ((self._process.stdout, self.lines), (self._process.stderr, self.told))
        self._readers = [threading.Thread(target=self._read, args=arguments, daemon=True) for arguments in streams]
        for reader in self._readers:
            reader.start()

    @staticmethod
    def _read(stream, lines) -> None:
        with stream:
            lines.extend(line.rstrip() for line in stream)

    def until(self, text, *, times=1) -> None:
        """Wait until so many lines begin so."""
        end = time.monotonic() + 60
        while sum(line.startswith(text) for line in (*self.lines, *self.told)) < times:
            assert time.monotonic() < end, (text, self.lines, self.told)
            assert any(reader.is_alive() for reader in self._readers), (text, self.lines, self.told)
            time.sleep(0.005)

    def send(self, number) -> None:
        self._process.send_signal(number)

    def finish(self) -> tuple[int, list[str]]:
        """Exit status and the lines of standard error, plain progress left out."""
        status = self._process.wait(timeout=30)
        for reader in self._readers:
            reader.join()
        return status, [line for line in self.told if not line.startswith("steps ")]

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()
        for reader in self._readers:
            reader.join(timeout=10)


@pytest.fixture
def child():
    children = []

    def start(*arguments, **options):
        children.append(Child(*arguments, **options))
        return children[-1]

    yield start
    for child in children:
        child.kill()


@pytest.mark.parametrize("number", list(STATUS))
@pytest.mark.parametrize("options", [(), pytest.param(("--quiet",), marks=pytest.mark.ci)])
def test_the_first_signal_lets_the_batch_be_finished_and_reported(number, options, child):
    process = child("steps", *options)
    process.until("begin 3")
    process.send(number)
    status, output = process.finish()
    assert status == STATUS[number]
    assert process.lines[-2:] == ["end 3", "closed"]
    assert output == [FINISHING, f"error: {WORD[number]}; go on with: again"]


@pytest.mark.parametrize(("first", "second"), [(signal.SIGINT, signal.SIGINT), (signal.SIGINT, signal.SIGTERM)])
def test_the_second_signal_stops_at_once(first, second, child):
    process = child("steps")
    process.until("begin 2")
    process.send(first)
    process.until(FINISHING)
    process.send(second)
    status, output = process.finish()
    assert status == STATUS[second]
    assert process.lines[-2:] == ["begin 2", "closed"]
    assert output == [FINISHING, f"error: {WORD[second]}; go on with: again"]


@pytest.mark.parametrize("number", list(STATUS))
def test_before_anything_is_reported_the_first_signal_stops_at_once(number, child):
    process = child("loading")
    process.until("begin 1")
    started = time.monotonic()
    process.send(number)
    status, output = process.finish()
    assert time.monotonic() - started < 20
    assert (status, process.lines[-1]) == (STATUS[number], "closed")
    assert output == [f"error: {WORD[number]}; go on with: again"]


@pytest.mark.ci
def test_a_stage_that_finishes_all_the_same_is_done(child):
    process = child("last")
    process.until("begin 2")
    process.send(signal.SIGINT)
    status, output = process.finish()
    assert (status, output) == (0, [FINISHING])
    assert "".join(process.lines).endswith('{  "finished": true}')


@pytest.mark.ci
def test_a_stage_that_does_not_end_is_ended_from_outside(child):
    process = child("stubborn")
    process.until("begin 2")
    process.send(signal.SIGINT)
    process.until(FINISHING)
    for _ in range(3):
        process.send(signal.SIGINT)
        time.sleep(0.02)
    started = time.monotonic()
    status, output = process.finish()
    assert time.monotonic() - started < 20
    assert (status, process.lines[-1]) == (130, "ignored")
    assert output == [FINISHING, "error: interrupted; go on with: again"]


def test_errors_of_a_stage_that_is_stopped_at_once_are_not_the_users(child):
    process = child("failing")
    process.until("begin 2")
    process.send(signal.SIGINT)
    process.until(FINISHING)
    process.send(signal.SIGINT)
    assert process.finish() == (130, [FINISHING, "error: interrupted; go on with: again"])


@pytest.mark.ci
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="workers are forked on Linux only")
def test_a_second_ctrl_c_ends_workers_in_a_long_computation_too(child):
    """From a terminal, where the signal goes to all processes; and none of them writes a traceback."""
    process = child("with_workers", start_new_session=True)
    process.until("worker", times=2)
    workers = [int(line.split()[1]) for line in process.lines]
    os.killpg(process.pid, signal.SIGINT)
    process.until(FINISHING)
    started = time.monotonic()
    os.killpg(process.pid, signal.SIGINT)
    status, output = process.finish()
    assert time.monotonic() - started < 20
    assert (status, output) == (130, [FINISHING, "error: interrupted; go on with: again"])
    until = time.monotonic() + 5
    while any(Path(f"/proc/{worker}").exists() for worker in workers) and time.monotonic() < until:
        time.sleep(0.01)
    assert not any(Path(f"/proc/{worker}").exists() for worker in workers)


def interrupted(stage, *, quiet=True) -> int:
    """The exit status of a stage that is interrupted, run in this process."""
    with pytest.raises(typer.Exit) as caught:
        run(stage, None, quiet=quiet, on_interrupt="again")
    return caught.value.exit_code


@pytest.mark.parametrize("number", list(STATUS))
def test_handlers_are_as_before_once_the_stage_has_ended(number, capsys):
    before = [signal.getsignal(number) for number in STATUS]
    inside = []

    def stage(config, *, on_progress):
        inside.extend(signal.getsignal(number) for number in STATUS)
        on_progress(Progress("steps", 1, 2))
        signal.raise_signal(number)
        on_progress(Progress("steps", 2, 2))

    assert interrupted(stage) == STATUS[number]
    assert [signal.getsignal(number) for number in STATUS] == before
    assert not set(inside) & set(before)
    assert capsys.readouterr().err.splitlines()[-1] == f"error: {WORD[number]}; again"


def test_the_last_report_of_a_phase_is_shown_before_the_interruption(capsys):
    def stage(config, *, on_progress):
        on_progress(Progress("steps", 1, 2))
        signal.raise_signal(signal.SIGINT)
        on_progress(Progress("steps", 2, 2))
        raise AssertionError("the report before was the last")

    assert interrupted(stage, quiet=False) == 130
    output = capsys.readouterr().err.splitlines()
    assert any(line.startswith("steps 2/2") for line in output)
    assert FINISHING in output


def test_a_stage_without_batches_is_stopped_by_the_first_signal(capsys):
    """As a download, which may wait for a server and loses nothing."""

    def stage(config, *, on_progress):
        on_progress(Progress("steps", 1, 2))
        signal.raise_signal(signal.SIGINT)
        raise AssertionError("it was not stopped")

    with pytest.raises(typer.Exit) as caught:
        run(stage, None, quiet=True, on_interrupt="again", batches=False)
    assert caught.value.exit_code == 130
    assert capsys.readouterr().err == "error: interrupted; again\n"


def test_a_report_from_another_thread_is_the_last_one_too(capsys):
    def stage(config, *, on_progress):
        reported = threading.Event()

        def work():
            for step in range(1, 1000):
                on_progress(Progress("steps", step, 1000))
                reported.set()
                time.sleep(0.01)

        with ThreadPoolExecutor(1) as pool:
            future = pool.submit(work)
            reported.wait()
            signal.raise_signal(signal.SIGINT)
            return future.result()

    assert interrupted(stage) == 130
    assert capsys.readouterr().err.splitlines() == [FINISHING, "error: interrupted; again"]


def test_an_interruption_that_no_signal_made_is_one_as_well(capsys):
    def stage(config, *, on_progress):
        raise KeyboardInterrupt

    assert interrupted(stage) == 130
    assert capsys.readouterr().err == "error: interrupted; again\n"


def test_an_error_after_the_first_signal_is_still_the_users():
    def stage(config, *, on_progress):
        on_progress(Progress("steps", 1, 2))
        signal.raise_signal(signal.SIGINT)
        raise ValueError("disk full")

    with pytest.raises(ValueError, match="disk full"):
        run(stage, None, quiet=True, on_interrupt="again")


def test_signals_that_the_process_was_started_to_ignore_stay_ignored(monkeypatch):
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:

        def stage(config, *, on_progress):
            on_progress(Progress("steps", 1, 2))
            signal.raise_signal(signal.SIGINT)
            on_progress(Progress("steps", 2, 2))
            return "finished"

        assert run(stage, None, quiet=True, on_interrupt="again") == "finished"
        assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_outside_the_main_thread_a_stage_runs_without_handlers():
    handlers, before = [], signal.getsignal(signal.SIGINT)

    def stage(config, *, on_progress):
        on_progress(Progress("steps", 1, 1))
        return signal.getsignal(signal.SIGINT) == before

    thread = threading.Thread(target=lambda: handlers.append(run(stage, None, quiet=True, on_interrupt="again")))
    thread.start()
    thread.join()
    assert handlers == [True]


def test_a_forked_process_leaves_ctrl_c_to_its_parent_and_dies_of_sigterm():
    codes = []

    def stage(config, *, on_progress):
        for number in STATUS:
            child = os.fork()
            if child == 0:
                signal.raise_signal(number)
                os._exit(7)
            codes.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        return "finished"

    assert run(stage, None, quiet=True, on_interrupt="again") == "finished"
    assert codes == [7, -signal.SIGTERM]


def test_no_thread_is_left_behind():
    before = threading.active_count()
    for _ in range(3):
        run(lambda config, *, on_progress: on_progress(Progress("steps", 1, 1)), None, quiet=True, on_interrupt="")
    assert threading.active_count() == before
    assert interrupts._GRACE_SECONDS < 2
