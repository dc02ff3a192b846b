"""Run folders: where one training keeps its config, head, history and metrics; files that users name for results."""

import contextlib
import re
import shlex
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import Timeout

from clipret.errors import RunError, UsageError
from clipret.machine.files import UNFINISHED, replaced
from clipret.machine.files import locked as file_locked
from clipret.machine.records import AtLeast, Each, Maybe, RecordError, read_record, record_text

CONFIG, HEAD, HISTORY, METRICS = "config.json", "head.safetensors", "history.csv", "metrics.json"
CHECKPOINT, RESULT = "checkpoint.safetensors", "result.json"
RANKS, ERRORS = "ranks.safetensors", "errors.json"
SWEEP = ("sweep.json", "sweep.csv")
FORMAT = 1
_LOCK = ".lock"
# What features and heads are kept in, and the records of runs and sweeps: lost with one wrong word.
_KEPT = (".h5", ".hdf5", ".npy", ".safetensors")
_RECORDS = (CONFIG, RESULT, HISTORY, METRICS, ERRORS, *SWEEP)
# What is used of a run's config.json: the settings are looked at when they are made a TrainConfig.
_CONFIG_FORM = {
    "format": int,
    "config": Each(Any),
    "cache": {"path": str, "fingerprint": str},
    "code": Maybe(Each({"path": str, "sha256": str})),
}
_RESULT_FORM = {
    "cache": str,
    "kept_epoch": AtLeast(0),
    "epochs": AtLeast(0),
    "steps": AtLeast(0),
    "train_images": AtLeast(0),
    "val_rsum": (float, None),
    "zero_shot_val_rsum": (float, None),
    "features": str,
    "remarks": [str],
    "seconds": float,
}


def make_run(runs_dir: Path, *, name: str | None, kind: str) -> Path:
    """Make a new run's folder and return it.

    name  of the folder, which may be there if there is nothing in it; None: the next free number and `kind`, such as
          0001-margin-linear
    kind  loss and head in words

    Raises RunError when a run of that name exists or the folder cannot be made.
    """
    if runs_dir.exists() and not runs_dir.is_dir():
        raise RunError(f"{runs_dir} is not a folder; give another --runs-dir.")
    try:
        runs_dir.mkdir(parents=True, exist_ok=True)
        if name is not None:
            run = runs_dir / name
            run.mkdir(exist_ok=is_empty(run))
            return run
        # Two trainings may start at once: who loses the race for a number takes the next.
        while True:
            taken = [int(match[1]) for path in runs_dir.iterdir() if (match := re.match(r"(\d{4,})-", path.name))]
            try:
                run = runs_dir / f"{max(taken, default=0) + 1:04d}-{kind}"
                run.mkdir()
                return run
            except FileExistsError:
                continue
    except FileExistsError as error:
        raise is_taken(Path(error.filename)) from None
    except OSError as error:
        raise RunError(f"cannot make a run in {runs_dir}: {error.strerror}; give another --runs-dir.") from None


def newest_run(runs_dir: Path) -> Path:
    """The run below runs_dir that was trained last. Raises RunError when there is none."""
    if runs_dir.exists() and not runs_dir.is_dir():
        raise RunError(f"{runs_dir} is not a folder; give another --runs-dir.")
    heads = list(runs_dir.glob(f"*/{HEAD}"))
    if not heads:
        raise RunError(
            f"there is no trained run in {runs_dir}/; train one with: clipret train --cache FILE, "
            f"or evaluate CLIP itself with: clipret eval --zero-shot --cache FILE"
        )
    return max(heads, key=lambda path: (path.stat().st_mtime_ns, path.parent.name)).parent


def is_taken(run: Path) -> RunError:
    """The error of a run's name that another run has."""
    return RunError(f"{run} exists already; give another --name, or delete it.")


def not_begun(run: Path, error: OSError) -> RunError:
    """The error of a run or a sweep whose first record cannot be written; there is nothing to go on with."""
    return RunError(
        f"cannot write {run}: {error.strerror or error}; nothing was trained yet. Once that is mended, start again "
        f"with the same command."
    )


def is_sweep(folder: Path) -> bool:
    """Whether a folder is a sweep's."""
    return (folder / SWEEP[0]).exists()


def named(folder: Path | str) -> Path:
    """The folder of a run or a sweep, by a path that ends with its name: the whole one, where it is given by dots."""
    path = Path(folder)
    return path if path.name not in ("", "..") else path.resolve()


def is_empty(run: Path) -> bool:
    """Whether a run's folder holds nothing that was written to its end: whoever made it was stopped at once."""
    return run.is_dir() and all(path.name == _LOCK or path.suffix == UNFINISHED for path in run.iterdir())


def discard(run: Path) -> None:
    """Remove the folder of a run that could not be begun, so that its name is free again."""
    shutil.rmtree(run, ignore_errors=True)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Inside, this process alone works on the run or the sweep of this folder; nothing of it is left behind.

    Raises RunError when another process does, or when the folder cannot be written.
    """
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(file_locked(folder / _LOCK))
        except Timeout:
            raise RunError(
                f"another process is training {folder}; wait for it, or train a run of another --name."
            ) from None
        except OSError as error:
            raise RunError(f"cannot write {folder}: {error.strerror or error}.") from None
        yield


def write_json(path: Path, content: dict) -> None:
    """Write JSON atomically: a reader sees the old file or the whole new one."""
    with replaced(path) as unfinished:
        unfinished.write_text(record_text(content, indent=2) + "\n", encoding="utf-8")


def read_result(run: Path) -> dict | None:
    """What training of this run came to; None when it is not complete. Raises RunError when it cannot be read."""
    path = run / RESULT
    try:
        return {**read_record(path, _RESULT_FORM), "run": str(run)}
    except FileNotFoundError:
        return None
    except (OSError, RecordError) as error:
        raise RunError(
            f"{path} cannot be read: {reason(error)}; delete it, and train the run again with: "
            f"clipret train --resume {shlex.quote(str(run))}"
        ) from None


def read_config(run: Path) -> dict:
    """A run's config.json. Raises RunError when it is missing or is not one."""
    if not (run / CONFIG).exists():
        raise RunError(f"{run} is not a run: it has no {CONFIG}; expected a folder made by clipret train.")
    return read_settings(run / CONFIG)


def read_settings(path: Path) -> dict:
    """What a config.json says. Raises RunError when it is missing or is not one."""
    try:
        return read_record(path, _CONFIG_FORM, version=FORMAT)
    except FileNotFoundError:
        raise RunError(f"there is no {path}; expected the {CONFIG} of a run.") from None
    except (OSError, RecordError) as error:
        raise RunError(f"{path} cannot be read: {reason(error)}; train the run again with this clipret.") from None


def reason(error: Exception) -> str:
    """What is wrong with a file, in words."""
    return (getattr(error, "strerror", None) or str(error)).removesuffix(".")


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
