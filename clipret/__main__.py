"""The command clipret, and python -m clipret."""

import atexit
import gc
import os
import sys
import threading
from contextlib import suppress
from typing import NoReturn


def run() -> NoReturn:
    """Run the command line, and end the process with its exit status."""
    # Loading modules makes hundreds of thousands of objects that stay. To look through them for garbage again and again
    # takes a tenth of the time; the command has it on again when its work begins.
    gc.disable()
    from clipret.cli import main, running
    from clipret.machine.own_code import OWN_MODULE

    # What is loaded by then stays, and is not looked through any more.
    running.before_work += (gc.freeze, gc.enable)
    status = main()
    threads = any(not thread.daemon and thread is not threading.main_thread() for thread in threading.enumerate())
    # Code of the user's own may have files open, whose last lines are written when its module is taken apart.
    if threads or any(name.startswith(OWN_MODULE) for name in sys.modules):
        gc.unfreeze()
        gc.enable()
        sys.exit(status)
    # As sys.exit does, but without taking modules apart and unloading libraries, used or not: a third of a second with
    # numba, and half a second and 130 MiB with torch and CUDA.
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    os._exit(status)


if __name__ == "__main__":
    run()
