"""Progress bars on a terminal, plain lines now and then anywhere else."""

import time

from rich.console import Console
from rich.filesize import decimal
from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars

from clipret.machine.escaping import visible
from clipret.machine.progress import Progress

_PLAIN_INTERVAL_SECONDS = 10


class ProgressDisplay:
    """A progress callback that draws bars on a terminal and writes plain lines now and then anywhere else."""

    def __init__(self, console: Console, *, quiet: bool):
        self._console = console
        self._quiet = quiet
        self._bars = None
        self._tasks = {}
        self._started = {}
        self._last_line = time.monotonic()

    def __enter__(self) -> "ProgressDisplay":
        if self._console.is_terminal and not self._quiet:
            self._bars = Bars(
                TextColumn("{task.description}", markup=False),
                BarColumn(),
                TextColumn("{task.fields[count]}", markup=False),
                TextColumn("{task.fields[rate]}", markup=False),
                TimeRemainingColumn(),
                TextColumn("{task.fields[detail]}", markup=False),
                console=self._console,
            )
            self._bars.start()
        return self

    def __exit__(self, *exception) -> None:
        if self._bars:
            self._bars.stop()

    def __call__(self, progress: Progress) -> None:
        if self._quiet:
            return
        now = time.monotonic()
        first_done, since = self._started.setdefault(progress.phase, (progress.done, now))
        rate = (progress.done - first_done) / (now - since) if now > since else 0.0
        detail = visible("  ".join(f"{name} {_figure(value)}" for name, value in progress.detail.items()))
        count = f"{_amount(progress.done, progress.unit)}/{_amount(progress.total, progress.unit)}"
        speed = f"{_amount(rate, progress.unit or 'rate')}/s" if rate else ""
        if self._bars:
            self._draw(progress, count=count, rate=speed, detail=detail)
        elif progress.done >= progress.total or now - self._last_line >= _PLAIN_INTERVAL_SECONDS:
            self._last_line = now
            left = (progress.total - progress.done) / rate if rate else 0
            pace = (f", {speed}" if speed else "") + (f", {left:,.0f} s left" if left else "")
            text = f"{progress.phase} {count}{pace}  {detail}".rstrip()
            self._console.print(visible(text), highlight=False, markup=False, soft_wrap=True)

    def say(self, text: str) -> None:
        """Write a line, above the bars where there are some; also where progress is not shown."""
        self._console.print(visible(text), highlight=False, markup=False, soft_wrap=True)

    def _draw(self, progress: Progress, **fields) -> None:
        if progress.phase not in self._tasks:
            self._tasks[progress.phase] = self._bars.add_task(progress.phase, total=progress.total, **fields)
        self._bars.update(self._tasks[progress.phase], completed=progress.done, total=progress.total, **fields)


def _amount(value: float, unit: str) -> str:
    if unit == "bytes":
        return decimal(int(value))
    return f"{value:,.1f}" if unit == "rate" else f"{value:,}"


def _figure(value) -> str:
    if isinstance(value, str):
        return value
    return f"{value:.4f}" if isinstance(value, float) else f"{value:,}"
