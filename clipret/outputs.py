"""Places that a user names for results: what cannot be one is refused before the work is done."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from clipret import runs
from clipret.errors import RunError, UsageError

# What features and heads are kept in, and the records of runs and sweeps: lost with one wrong word.
_KEPT = (".h5", ".hdf5", ".npy", ".safetensors")
_RECORDS = (runs.CONFIG, runs.RESULT, runs.HISTORY, runs.METRICS, runs.ERRORS, *runs.SWEEP)


def check_place(option: str, path: Path, *, suffixes: tuple[str, ...] = (), own: str | None = None) -> None:
    """That a result can be written to `path`, which is what the option of that name says.

    suffixes  that it may have; none: any but those of caches, heads and ranks
    own       the record of a run that is made anew, which may be replaced

    Raises UsageError: for another suffix, a folder, a file whose folder is not there, and another record of a run.
    """
    if path.is_dir():
        raise UsageError(f"--{option} is '{path}', a folder; expected a file.")
    if suffixes and path.suffix not in suffixes:
        raise UsageError(f"--{option} is '{path}'; expected a file that ends with {' or '.join(suffixes)}.")
    if path.suffix in _KEPT:
        raise UsageError(f"--{option} is '{path}', but {path.suffix} is what features and heads are kept in.")
    if path.name in _RECORDS and path.name != own and path.exists():
        raise UsageError(f"--{option} is '{path}', which is a record of a run or a sweep; give another name.")
    if not path.parent.is_dir():
        raise UsageError(f"--{option} is '{path}', but there is no folder {path.parent}; make it first.")


@contextmanager
def written(out: Path, *, option: str = "out") -> Iterator[None]:
    """What is done within writes to a place that an option names. Raises RunError when it cannot be written."""
    try:
        yield
    except OSError as error:
        raise RunError(f"cannot write {out}: {error.strerror or error}; give another place with --{option}.") from None
