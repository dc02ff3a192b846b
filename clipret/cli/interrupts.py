"""Ctrl-C and SIGTERM while a stage runs: the first lets it finish the batch, the second waits for nothing."""

import multiprocessing
import os
import queue
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console

from clipret.cli.progress_bars import ProgressDisplay
from clipret.machine.progress import Progress, ProgressCallback

_SIGNALS = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated"}
# From the second signal on: what a stage may take to close its files.
_GRACE_SECONDS = 1.5
_FINISHING, _HURRYING, _OVER = "finishing the batch; Ctrl-C again stops at once", "hurrying", "over"


class Interrupts:
    """Turns signals into a KeyboardInterrupt at the right moment.

    Once the stage has reported progress, the first signal makes its next report the last: that is the moment after a
    batch, which is not lost. Before there is any report, and from the second signal on, KeyboardInterrupt is raised
    where the stage happens to be; one that has not ended soon after the second signal is ended from outside.

    status    what a shell sees of a process that such a signal ended: 130 after SIGINT, 143 after SIGTERM
    word      what happened to the stage
    at_once   whether the stage was not left the time to finish its batch
    """

    def __init__(self, console: Console, *, farewell: Callable[[str], None], patient: bool = True):
        """farewell: called with the word just before the process is ended from outside; patient: wait for a report."""
        self._console = console
        self._farewell = farewell
        self._patient = patient
        self._process = os.getpid()
        self._signal = signal.SIGINT
        self._reported = self._asked = False
        self._over = threading.Event()
        # The handler may come in the middle of anything, so that what takes a lock is left to another thread. Of all
        # ways to tell it, this queue is the one that is made for handlers.
        self._notes = queue.SimpleQueue()
        self.at_once = False

    @property
    def status(self) -> int:
        """The exit status of an interrupted command."""
        return 128 + self._signal

    @property
    def word(self) -> str:
        """`interrupted` or `terminated`."""
        return _SIGNALS[self._signal]

    @contextmanager
    def handled(self, display: ProgressDisplay) -> Iterator[ProgressCallback]:
        """Handle signals while the body runs; yields the callback through which the stage is to report to display.

        Outside the main thread, and for signals that this process was started to ignore (nohup), nothing changes.
        """

        def report(progress: Progress) -> None:
            display(progress)
            self._reported = True
            if self._asked:
                raise KeyboardInterrupt

        if threading.current_thread() is not threading.main_thread():
            yield report
            return
        helper = threading.Thread(target=self._attend, args=(display,), name="clipret-interrupts", daemon=True)
        helper.start()
        before = {number: signal.getsignal(number) for number in _SIGNALS}
        ours = [number for number, handler in before.items() if handler not in (signal.SIG_IGN, None)]
        try:
            for number in ours:
                signal.signal(number, self._handle)
            yield report
        finally:
            if self.at_once:
                _end_children()
            for number in ours:
                signal.signal(number, before[number])
            self._over.set()
            self._notes.put(_OVER)
            helper.join(timeout=1)

    def _handle(self, number: int, frame) -> None:
        if os.getpid() != self._process:
            # A worker, forked a moment ago, which is to take signals its own way.
            if number == signal.SIGTERM:
                signal.signal(number, signal.SIG_DFL)
                os.kill(os.getpid(), number)
            return
        self._signal = number
        first, self._asked = not self._asked, True
        if first and self._reported and self._patient:
            self._notes.put(_FINISHING)
            return
        if not first:
            self._notes.put(_HURRYING)
        # Once only: what is raised a second time would break the closing of files that the first one led to.
        if not self.at_once:
            self.at_once = True
            raise KeyboardInterrupt

    def _attend(self, display: ProgressDisplay) -> None:
        while (note := self._notes.get()) != _OVER:
            if note == _FINISHING:
                display.say(note)
            elif not self._over.wait(_GRACE_SECONDS):
                self._end()

    def _end(self) -> None:
        for child in multiprocessing.active_children():
            child.kill()
        # Bars hide it.
        self._console.show_cursor()
        self._farewell(self.word)
        os._exit(self.status)


def _end_children() -> None:
    """End the processes that multiprocessing started for a stage: nobody waits for what they are doing now."""
    children = multiprocessing.active_children()
    if children:
        # Here and not above: it loads torch, which a stage without children may do without.
        from clipret.machine.workers import end_processes

        end_processes(children)
