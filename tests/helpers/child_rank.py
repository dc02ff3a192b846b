"""One of torchrun's processes: extracts as the command line does, and may kill itself on the way, once.

python child_rank.py MARKER KILLED_RANK AFTER_BATCHES [options of clipret extract]

AFTER_BATCHES may be `last`: then the process kills itself in its first batch, but only when another waits for it at the
end of its own share, and is slow to load the model when it is started again.
"""

import os
import signal
import sys
import time
from pathlib import Path

from clipret import cli
from clipret.extraction import current_rank, stage
from clipret.extraction.job import Job
from clipret.extraction.processes import Together


def main() -> int:
    """Run; the process of that rank kills itself after some batches, unless the marker is there."""
    marker, killed, batches, *options = sys.argv[1:]
    marker, waiting = Path(marker), Path(f"{marker}.waiting")
    report, pause, left = Job._report, Together._pause, 1 if batches == "last" else int(batches)
    load, worked = stage.load_backbone, False

    def reported(self, *arguments, **values):
        nonlocal left, worked
        report(self, *arguments, **values)
        worked, left = True, left - 1
        if left == 0 and current_rank().index == int(killed) and not marker.exists():
            while batches == "last" and not waiting.exists():
                time.sleep(0.01)
            marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)

    def paused(self, there):
        if worked:
            waiting.touch()
        pause(self, there)

    def loaded(*arguments, **values):
        if batches == "last" and marker.exists() and current_rank().index == int(killed):
            time.sleep(2)
        return load(*arguments, **values)

    Job._report, Together._pause, stage.load_backbone = reported, paused, loaded
    return cli.main(["extract", *options])


if __name__ == "__main__":
    sys.exit(main())
