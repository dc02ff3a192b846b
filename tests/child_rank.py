"""One of torchrun's processes: extracts as the command line does, and may kill itself on the way, once.

python child_rank.py MARKER KILLED_RANK AFTER_BATCHES [options of clipret extract]
"""

import os
import signal
import sys
from pathlib import Path

from clipret import cli
from clipret.extraction import current_rank
from clipret.extraction.job import Job


def main() -> int:
    """Run; the process of that rank kills itself after some batches, unless the marker is there."""
    marker, killed, batches, *options = sys.argv[1:]
    real, left = Job._report, int(batches)

    def report(self, *arguments, **values):
        nonlocal left
        real(self, *arguments, **values)
        left -= 1
        if left == 0 and current_rank().index == int(killed) and not Path(marker).exists():
            Path(marker).touch()
            os.kill(os.getpid(), signal.SIGKILL)

    Job._report = report
    return cli.main(["extract", *options])


if __name__ == "__main__":
    sys.exit(main())
