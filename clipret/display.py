"""What the command line shows: tables of results, and progress. Builds and draws; decides nothing."""

import shlex
import time

from rich.console import Console
from rich.filesize import decimal
from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars

from clipret.counting import copies_in_words, single_colour_in_words
from clipret.escaping import visible
from clipret.progress import Progress

_PLAIN_INTERVAL_SECONDS = 10
_PLACES = {"host": "machine's memory", "disk": "cache's file"}


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


def extraction_summary(result: dict, *, batch_size: int | None) -> str:
    """What extract returned, in words; batch_size is the one asked for, None for any."""
    cache, new = result["cache"], result["extracted_images"] + result["extracted_captions"]
    if new:
        several = result["processes"] > 1
        processes, first = (f" by {result['processes']} processes", " by the first") if several else ("", "")
        lines = [
            f"{cache}: {result['images']:,} images and {result['captions']:,} captions{processes}, "
            f"{result['extracted_images']:,} and {result['extracted_captions']:,} of them now{first}, "
            f"in {result['seconds']:.1f} s."
        ]
    else:
        lines = [f"{cache} was complete already; nothing to do."]
    lines += [f"Note: {remark}." for remark in result["remarks"]]
    if result["problems"]:
        counted = "1 image" if result["problems"] == 1 else f"{result['problems']:,} images"
        found = f", {result['missing']:,} of them not found" if result["missing"] else ""
        lines.append(f"{counted} could not be read{found}; clipret info {shlex.quote(cache)} --problems lists them.")
    if new and batch_size is not None and result["batch_size"] != batch_size:
        lines.append(f"It was begun with --batch-size {result['batch_size']} and went on with that.")
    lines += _notes(result)
    if new:
        lines.append(f"Next: clipret train --cache {shlex.quote(cache)}")
    return "\n".join(lines)


def _notes(result: dict) -> list[str]:
    """How the features came about, where that is not the usual way."""
    notes = []
    copied = {"images": result["copied"]["image"], "captions": result["copied"]["text"]}
    if any(copied.values()):
        told = " and ".join(f"{count:,} {what}" for what, count in copied.items() if count)
        notes.append(f"{told} are equal to others, and were encoded with them.")
    notes += [f"{copies_in_words(copies)}.{_remedy(copies)}" for copies in result["cross_split_copies"]]
    if result["single_colour"]["images"]:
        notes.append(f"{single_colour_in_words(result['single_colour'])}.")
    for what, size in (("images", result["micro_batch"]["image"]), ("captions", result["micro_batch"]["text"])):
        if size:
            notes.append(f"For want of memory {what} were encoded {size} at a time; the last bits may depend on that.")
    if result["decoding"]:
        cosine, centred = (result["decoding"][name]["mean"] for name in ("cosine", "centred_cosine"))
        notes.append(
            f"Decoded fast: cosine to exact decoding {cosine:.4f}, centred {centred:.4f}, on "
            f"{result['decoding']['images']} images."
        )
    return notes


def _remedy(copies: dict) -> str:
    if copies["of"] != "train" or copies["split"] == "restval":
        return ""
    return " Train with --drop-cross-split-duplicates to leave those of train out."


def training_summary(result: dict, *, evaluation: str) -> str:
    """What train returned, in words.

    evaluation  the command that measures its run
    """
    where = (
        f"{result['run']}: {result['steps']:,} steps on {result['train_images']:,} images in {result['seconds']:.1f} s"
    )
    if result["val_rsum"] is None:
        chosen = f"kept the last epoch, {result['kept_epoch']}: the cache has no val split to choose on"
    else:
        chosen = f"kept epoch {result['kept_epoch']}, val rsum {result['val_rsum']:.3f}"
        chosen += f" (zero-shot {result['zero_shot_val_rsum']:.3f})"
    notes = [f"Note: {remark}." for remark in result["remarks"]]
    if result["features"] != "device":
        notes.append(f"Features were read from the {_PLACES[result['features']]}, batch by batch.")
    return "\n".join([f"{where}; {chosen}.", *notes, f"Next: {evaluation}"])


def _amount(value: float, unit: str) -> str:
    if unit == "bytes":
        return decimal(int(value))
    return f"{value:,.1f}" if unit == "rate" else f"{value:,}"


def _figure(value) -> str:
    if isinstance(value, str):
        return value
    return f"{value:.4f}" if isinstance(value, float) else f"{value:,}"
