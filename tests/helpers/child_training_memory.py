"""Train an epoch of a cache from its file, and print what memory it took.

child_training_memory.py CACHE RUNS LIMIT [HEAD]
"""

import json
import resource
import sys
from pathlib import Path

import torch

from clipret import TrainConfig, train
from clipret.retrieval import inputs
from clipret.training import loop


def held() -> int:
    """KiB of the process that are its own, not a file's."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon:"))


def mapped(path: Path) -> int:
    """KiB of the file that are mapped into the process now."""
    found, inside = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        name, *rest = line.split()
        if not name.endswith(":"):
            inside = rest[-1] == str(path)
        elif inside and name == "Rss:":
            found += int(rest[0])
    return found


def main() -> None:
    cache, runs, limit, *head = sys.argv[1:]
    path = Path(cache).resolve()
    loop._REPORT_EVERY_SECONDS = 0.2
    inputs._BLOCK_BYTES = 4 << 20
    torch.set_num_threads(1)
    own, of_the_file = [], []

    def watch(progress) -> None:
        own.append(held())
        of_the_file.append(mapped(path))

    settings = {"runs_dir": runs, "epochs": 1, "batch_size": 1024, "memory_limit": float(limit)}
    config = TrainConfig(cache, **settings, head=head[0] if head else TrainConfig.head)
    result = train(config, on_progress=watch)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    sys.stdout.write(json.dumps({**result, "own": own, "mapped": of_the_file, "peak": peak}))


if __name__ == "__main__":
    main()
