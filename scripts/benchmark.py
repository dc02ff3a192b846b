"""What benchmarks share: rounds of everything in turn, medians, a table, build/bench/NAME.json; and a random cache."""

import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table

from clipret.cache import CacheContents, FeatureCache, open_writer
from clipret.cache.layout import NOTES, PLAIN_NOTES
from clipret.cache.taps import Tap, block_notes, store_tokens
from clipret.machine.last_blocks import LastBlock, shapes_of

OUT = Path(__file__).resolve().parent.parent / "build" / "bench"


_INPUTS = {
    "weights_sha256": "0" * 64,
    "dataset": "made",
    "precision": "float32",
    "preprocessing": "none",
    "decode": "exact",
    "background": "clip",
    "caption_clean": "none",
    "prompt": "{}",
    "dtype": "float16",
}
_ABOUT = {
    "model": "random",
    "library": "none",
    "batch_size": 1,
    "context_length": 77,
    "split_rule": "none",
    "remarks": [],
    "command": "none",
    "created": "now",
}
# Width of a head of attention.
_HEAD = 64


class PeakMebibytes(float):
    """The largest memory that a process held, in MiB."""


class Seconds(float):
    """What a way took, measured by itself."""


def run_process(arguments: list[str]) -> PeakMebibytes:
    """Run Python with these arguments to its end. Raises CalledProcessError when it fails.

    Modules are loaded compiled, as they are where a package was installed.
    """
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    process = subprocess.Popen([sys.executable, *arguments], stdout=subprocess.DEVNULL, env=environment)
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
    prepare: Callable[[], object] = lambda: None,
) -> None:
    """Time every way of doing the same work, in turn, several rounds, and report the medians.

    floor  the way, one of `ways`, that nothing can beat: the bare arithmetic of the work
    ways   name -> the work; one that is a process of its own returns its peak memory as run_process does, one that
           takes its own time returns it as Seconds
    warm_up  do everything once before it counts
    peaks  name -> memory, where it was measured apart
    prepare  called before each run, and not measured
    units  name -> images, captions ... that the way does; rates are reported, and ways that do fewer are scaled up
    """
    for run in ways.values() if warm_up else ():
        prepare()
        run()
    seconds, peaks = {label: [] for label in ways}, dict(peaks or {})
    for _ in range(rounds):
        for label, run in ways.items():
            prepare()
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


def random_cache(
    path: Path,
    *,
    images: int,
    captions: int,
    widths: Mapping[str, int],
    embedding: int,
    tokens: Mapping[str, int] | None = None,
    tap_dtype: str = "float16",
) -> FeatureCache:
    """A cache of random features, all in train.

    captions  of each image
    widths    image, text -> of features, and of tokens
    tokens    image, text -> how many go into the last block for each row, which is a transformer's; None: the cache
              has none
    """
    generator, counts = np.random.default_rng(0), {"image": images, "text": captions * images}
    tokens = tokens or {}
    taps = {
        side: Tap(widths[side], tap_dtype, **_lengths(side, count, rows=counts[side])) for side, count in tokens.items()
    }
    blocks = {side: _block(generator, tap) for side, tap in taps.items()}
    projections = {f"{side}/weight": generator.normal(size=(width, embedding)) / 30 for side, width in widths.items()}
    contents = CacheContents(
        image_ids=[str(row) for row in range(images)],
        image_files=[f"{row}.jpg" for row in range(images)],
        image_splits=np.zeros(images, np.uint8),
        captions=[str(row) for row in range(counts["text"])],
        caption_ids=[str(row) for row in range(counts["text"])],
        caption_images=np.repeat(np.arange(images), captions),
        projections=projections | {"logit_scale": 4.6},
        dtype="float16",
        notes={side: NOTES[side] if side in taps else PLAIN_NOTES[side] for side in widths},
        taps=taps,
        blocks=blocks,
        inputs=_INPUTS,
        about=_ABOUT | ({"blocks": block_notes(blocks)} if blocks else {}),
    )
    with open_writer(path, contents) as writer:
        for side, count in counts.items():
            for start in range(0, count, 1024):
                rows = np.arange(start, min(start + 1024, count))
                drawn = generator.standard_normal((len(rows), tokens.get(side, 1), widths[side]), dtype=np.float32)
                values = {"features": drawn[:, 0].astype(np.float16)}
                if side in taps:
                    lengths = np.full(len(rows), tokens[side])
                    values["tap"] = store_tokens(drawn, lengths=lengths, dtype=tap_dtype)
                if side == "image":
                    writer.write_images(rows, problems={}, **values)
                else:
                    writer.write_texts(rows, tokens=np.full(len(rows), 12), **values)
    return FeatureCache(path)


def _lengths(side: str, count: int, *, rows: int) -> dict:
    return {"positions": count} if side == "image" else {"starts": np.arange(rows + 1) * count}


def _block(generator: np.random.Generator, tap: Tap) -> LastBlock:
    weights = {}
    for part, shape in shapes_of("transformer", width=tap.width).items():
        drawn = generator.normal(scale=0.02, size=shape)
        weights[part] = (drawn + (part.startswith("norm") and part.endswith("weight"))).astype(np.float32)
    return LastBlock("transformer", max(1, tap.width // _HEAD), tap.positions, weights)
