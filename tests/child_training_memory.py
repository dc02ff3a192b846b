"""Train an epoch of a cache from its file, and print what memory it took: child_training_memory.py CACHE RUNS LIMIT"""

import json
import sys
import time
from pathlib import Path

import torch

from clipret import TrainConfig, train
from clipret.training import loop

STATUS = Path("/proc/self/status")


def resident() -> int:
    """MiB that the process holds now, mapped files included."""
    lines = STATUS.read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS:")) >> 10


def main() -> None:
    cache, runs, limit = sys.argv[1:]
    loop._REPORT_EVERY_SECONDS = 0.2
    torch.set_num_threads(1)
    seen, started = [], time.perf_counter()
    config = TrainConfig(cache, runs_dir=runs, epochs=1, batch_size=1024, memory_limit=float(limit))
    result = train(config, on_progress=lambda progress: seen.append(resident()))
    sys.stdout.write(json.dumps({**result, "resident": seen, "wall": time.perf_counter() - started}))


if __name__ == "__main__":
    main()
