"""What every benchmark shares: rounds of everything in turn, medians, a table, and build/bench/NAME.json."""

import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table

OUT = Path(__file__).resolve().parent.parent / "build" / "bench"


class PeakMebibytes(float):
    """The largest memory that a process held, in MiB."""


class Seconds(float):
    """What a way took, measured by itself."""


def run_process(arguments: list[str]) -> PeakMebibytes:
    """Run Python with these arguments to its end. Raises CalledProcessError when it fails."""
    process = subprocess.Popen([sys.executable, *arguments], stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, arguments)
    # Linux counts in KiB, macOS in bytes.
    return PeakMebibytes(usage.ru_maxrss / (1 << 20 if sys.platform == "darwin" else 1 << 10))


def compare(
    name: str,
    *,
    work: str,
    floor: str,
    ways: dict[str, Callable[[], object]],
    rounds: int = 5,
    units: dict[str, int] | None = None,
    warm_up: bool = True,
    peaks: dict[str, PeakMebibytes] | None = None,
) -> None:
    """Time every way of doing the same work, in turn, several rounds, and report the medians.

    floor  the way, one of `ways`, that nothing can beat: the bare arithmetic of the work
    ways   name -> the work; one that is a process of its own returns its peak memory as run_process does, one that
           takes its own time returns it as Seconds
    warm_up  do everything once before it counts
    peaks  name -> memory, where it was measured apart
    units  name -> images, captions ... that the way does; rates are reported, and ways that do fewer are scaled up
    """
    for run in ways.values() if warm_up else ():
        run()
    seconds, peaks = {label: [] for label in ways}, dict(peaks or {})
    for _ in range(rounds):
        for label, run in ways.items():
            started = time.perf_counter()
            result = run()
            taken = result if isinstance(result, Seconds) else time.perf_counter() - started
            seconds[label].append(taken * (units[floor] / units[label] if units else 1))
            if isinstance(result, PeakMebibytes):
                peaks[label] = max(result, peaks.get(label, result))
    medians = {label: statistics.median(times) for label, times in seconds.items()}
    rows = [
        {
            "name": label,
            "seconds": round(taken, 6),
            **({"per_second": round(units[floor] / taken, 2)} if units else {}),
            "ratio_to_floor": round(taken / medians[floor], 3),
            **({"peak_mib": round(peaks[label])} if label in peaks else {}),
        }
        for label, taken in sorted(medians.items(), key=lambda item: item[1])
    ]
    machine = f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"
    report = {"machine": machine, "work": work, "floor_seconds": round(medians[floor], 6), "rows": rows}
    OUT.mkdir(parents=True, exist_ok=True)
    (OUT / f"{name}.json").write_text(json.dumps(report, indent=2) + "\n")
    table = Table(title=f"{name}: {work}", caption=f"{machine}; median of {rounds}", box=box.SIMPLE)
    table.add_column("way")
    table.add_column("seconds", justify="right")
    if units:
        table.add_column("a second", justify="right")
    table.add_column("ratio to floor", justify="right")
    if peaks:
        table.add_column("peak MiB", justify="right")
    for row in rows:
        peak = [f"{row['peak_mib']:,}"] if "peak_mib" in row else []
        rate = [f"{row['per_second']:,.1f}"] if units else []
        table.add_row(row["name"], f"{row['seconds']:.4f}", *rate, f"{row['ratio_to_floor']:.2f}", *peak)
    Console(width=100).print(table)
    print(f"written to {OUT / f'{name}.json'}")
