"""The command clipret, and python -m clipret."""

import atexit
import os
import sys
import threading
from contextlib import suppress
from typing import NoReturn

from clipret.cli import main


def run() -> NoReturn:
    """Run the command line, and end the process with its exit status."""
    status = main()
    others = [thread for thread in threading.enumerate() if not thread.daemon and thread is not threading.main_thread()]
    if "torch" not in sys.modules or others:
        sys.exit(status)
    # As sys.exit does, but without unloading libraries: those of torch with CUDA take half a second and 130 MiB for
    # that, used or not.
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    os._exit(status)


if __name__ == "__main__":
    run()
