"""The folder of a run (config, head, history, metrics, failures): names, locks, readers; and checks of output paths."""

import contextlib
import csv
import io
import math
import re
import shlex
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import Timeout

from clipret.errors import RunError, UsageError
from clipret.machine.files import UNFINISHED, read_file, replaced
from clipret.machine.files import locked as file_locked
from clipret.machine.records import AtLeast, Each, Maybe, RecordError, read_record, record_text

CONFIG, HEAD, HISTORY, METRICS = "config.json", "head.safetensors", "history.csv", "metrics.json"
CHECKPOINT, RESULT = "checkpoint.safetensors", "result.json"
RANKS, FAILURES = "ranks.safetensors", "failures.json"
SWEEP = ("sweep.json", "sweep.csv")
FORMAT = 1
_LOCK = ".lock"
# What failures.json was called; runs of then still have one.
_OLD_FAILURES = "errors.json"
# Features, heads and the records of runs and sweeps: one wrong --out would overwrite them.
_KEPT = (".h5", ".hdf5", ".npy", ".safetensors")
_RECORDS = (CONFIG, RESULT, HISTORY, METRICS, FAILURES, _OLD_FAILURES, *SWEEP)
# The settings in config.json are checked later, when a TrainConfig is made of them.
_CONFIG_FORM = {
    "format": int,
    "config": Each(Any),
    "cache": {"path": str, "fingerprint": str},
    "code": Maybe(Each({"path": str, "sha256": str})),
    "versions": Maybe(Each(str)),
    "soup": Maybe({"runs": [str], "heads": AtLeast(1), "differing": [str]}),
}
_RESULT_FORM = {
    "cache": str,
    "kept_epoch": AtLeast(0),
    "epochs": AtLeast(0),
    "steps": AtLeast(0),
    "train_images": AtLeast(0),
    "val_rsum": (float, None),
    "zero_shot_val_rsum": (float, None),
    "closed_form_val_rsum": Maybe(float),
    "scalars": Maybe(Each(float)),
    "features": str,
    "remarks": [str],
    "seconds": float,
}
_MEASURED_FORM = {
    "run": (str, None),
    "head": (str, None),
    "cache": {"path": str},
    "protocol": {"name": str, "split": str},
}
_METRICS_FORM = {
    "results": Each({"t2i": Each(float), "i2t": Each(float)}),
    "rsum": Each(float),
    **_MEASURED_FORM,
}
_QUERIES_FORM = [{"ranks": Each(AtLeast(1)), "expected": [Each(Any)], "retrieved": [Each(Any)]}]
_FAILURES_FORM = {
    "directions": Each(
        {
            "queries": AtLeast(0),
            "worst": _QUERIES_FORM,
            "changed": ({"most_improved": _QUERIES_FORM, "most_worsened": _QUERIES_FORM}, None),
            "hubs": Each({"largest": [{"counts": Each(AtLeast(0))}]}),
            "breakdown": Each({"bins": [{"queries": AtLeast(0)}]}),
        }
    ),
    "heads": [str],
    "top": AtLeast(1),
    **_MEASURED_FORM,
}
_MOST_HISTORY = 1 << 28


def make_run(runs_dir: Path, *, name: str | None, kind: str) -> Path:
    """Make a new run's folder and return it.

    name  of the folder, which may exist if it is empty; None: the next free number and `kind`, such as
          0001-margin-linear
    kind  loss and head, as in margin-linear

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
        # Two trainings may start at once: the one that loses the race takes the next number.
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
            f"or look at the encoder itself with --zero-shot --cache FILE"
        )
    return max(heads, key=lambda path: (path.stat().st_mtime_ns, path.parent.name)).parent


def is_taken(run: Path) -> RunError:
    """The error for a name that another run has."""
    return RunError(f"{run} exists already; give another --name, or delete it.")


def not_begun(run: Path, error: OSError) -> RunError:
    """The error for a run or a sweep whose first file cannot be written; there is nothing to resume."""
    return RunError(
        f"cannot write {run}: {error.strerror or error}; nothing was trained yet. Fix that, then run the "
        f"same command again."
    )


def is_sweep(folder: Path) -> bool:
    """Whether the folder is a sweep."""
    return (folder / SWEEP[0]).exists()


def named(folder: Path | str) -> Path:
    """The folder of a run or a sweep as a path that ends with its name: `.` and `..` are resolved."""
    path = Path(folder)
    return path if path.name not in ("", "..") else path.resolve()


def is_empty(run: Path) -> bool:
    """Whether a run's folder has no finished file: its training was stopped at the very start."""
    return run.is_dir() and all(path.name == _LOCK or path.suffix == UNFINISHED for path in run.iterdir())


def discard(run: Path) -> None:
    """Remove the folder of a run that could not start, so that its name is free again."""
    shutil.rmtree(run, ignore_errors=True)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the lock of a run or a sweep: no other process trains it meanwhile. The lock file is removed afterwards.

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
    """Write JSON atomically: a reader sees the old file or the complete new one."""
    with replaced(path) as unfinished:
        unfinished.write_text(record_text(content, indent=2) + "\n", encoding="utf-8")


def read_result(run: Path | str) -> dict | None:
    """The result of a run's training (result.json and `run`); None when the training is not complete.

    Raises RunError when the file cannot be read.
    """
    path = Path(run) / RESULT
    try:
        return {**read_record(path, _RESULT_FORM), "run": str(run)}
    except FileNotFoundError:
        return None
    except (OSError, RecordError) as error:
        raise RunError(
            f"{path} cannot be read: {reason(error)}; delete it, and train the run again with: "
            f"clipret train --resume {shlex.quote(str(run))}"
        ) from None


def read_config(run: Path | str) -> dict:
    """A run's config.json: `config` (settings by name), `cache` (path, fingerprint) and `format`.

    Of a soup, an average of heads, `config` is of the first of them, and `soup` has runs (names of all of them), heads
    (how many were tried) and differing (names of the settings in which they differ).

    Raises RunError when the file is missing or is not one.
    """
    run = Path(run)
    if not (run / CONFIG).exists():
        raise RunError(f"{run} is not a run: it has no {CONFIG}; expected a folder made by clipret train.")
    return read_settings(run / CONFIG)


def require_training(record: dict, run: Path) -> None:
    """Raise RunError if what read_config returned is of a soup, which has no settings to train or be known by."""
    if "soup" in record:
        heads = record["soup"]["runs"]
        raise RunError(
            f"{run} is a soup, an average of {len(heads):,} heads, and not a training; give one of its runs, such as "
            f"{run.parent / heads[0]}."
        )


def read_settings(path: Path) -> dict:
    """The content of a config.json, as read_config returns it, by the path of the file."""
    try:
        return read_record(path, _CONFIG_FORM, version=FORMAT)
    except FileNotFoundError:
        raise RunError(f"there is no {path}; expected the {CONFIG} of a run.") from None
    except (OSError, RecordError) as error:
        raise RunError(f"{path} cannot be read: {reason(error)}; train the run again with this clipret.") from None


def read_metrics(path: Path | str) -> dict:
    """The figures that clipret eval wrote: metrics.json of a run's folder, or a file that --out named.

    Raises RunError when the file is missing or is not one.
    """
    path = Path(path)
    file = path / METRICS if path.is_dir() else path
    if not file.exists():
        raise RunError(f"there is no {file}; measure the run with: clipret eval --head {shlex.quote(str(file.parent))}")
    try:
        return read_record(file, _METRICS_FORM)
    except (OSError, RecordError) as error:
        expected = "expected a run's folder, or a metrics.json"
        raise RunError(f"{file} is not what clipret eval writes: {reason(error)}; {expected}.") from None


def read_failures(path: Path | str) -> dict:
    """The report that clipret failures wrote: failures.json of a run's folder, or a file that --out named.

    Of an old run, its errors.json.

    Raises RunError when the file is missing or is not one.
    """
    file = path = Path(path)
    old = path / _OLD_FAILURES
    if path.is_dir():
        file = path / FAILURES if (path / FAILURES).exists() or not old.exists() else old
    command = f"clipret failures --head {shlex.quote(str(file.parent))}"
    if not file.exists():
        raise RunError(f"there is no {file}; write it with: {command}")
    try:
        return read_record(file, _FAILURES_FORM)
    except (OSError, RecordError) as error:
        raise RunError(
            f"{file} is not what clipret failures writes: {reason(error)}; write it again with: {command}"
        ) from None


def read_history(run: Path | str) -> list[dict[str, float | int | None]]:
    """A run's history.csv: for each epoch, from 0 on, a dict of column -> number, None where the cell is empty.

    Raises RunError when it is missing, or is not one.
    """
    path = Path(run) / HISTORY
    try:
        lines = history_lines(path)
        return [
            {name: _number(name, text, epoch=epoch) for name, text in line.items()} for epoch, line in enumerate(lines)
        ]
    except FileNotFoundError:
        raise RunError(f"there is no {path}; training stopped before it saved an epoch, or this is no run.") from None
    except (OSError, RecordError) as error:
        raise RunError(f"{path} cannot be read: {reason(error)}; expected what clipret train writes.") from None


def history_lines(path: Path) -> list[dict[str, str]]:
    """The lines of a history.csv, an epoch each, as text. Raises OSError, and RecordError when it is not one."""
    content = read_file(path, most=_MOST_HISTORY)
    try:
        lines = list(csv.DictReader(io.StringIO(content.decode("utf-8"), newline=""), strict=True))
    except (UnicodeDecodeError, csv.Error) as error:
        raise RecordError(f"it is no CSV file ({error})") from None
    whole = all(None not in line and None not in line.values() for line in lines)
    if not whole or any(line.get("epoch") != str(epoch) for epoch, line in enumerate(lines)):
        raise RecordError("it has not one line for each of its epochs")
    return lines


def _number(name: str, text: str, *, epoch: int) -> float | int | None:
    if name == "epoch" or not text:
        return epoch if name == "epoch" else None
    with contextlib.suppress(ValueError):
        if math.isfinite(number := float(text)):
            return number
    raise RecordError(f"{name} of epoch {epoch} is '{text}'; expected a number")


def reason(error: Exception) -> str:
    """What is wrong with a file, as part of a sentence."""
    return (getattr(error, "strerror", None) or str(error)).removesuffix(".")


def check_place(option: str, path: Path, *, suffixes: tuple[str, ...] = (), own: str | None = None) -> None:
    """Check that a result can be written to `path`, the value of the option --`option`.

    suffixes  allowed suffixes; none: any but those of caches, heads and ranks
    own       the file of a run that the command writes itself, and may replace

    Raises UsageError for another suffix, a folder, a file in a folder that does not exist, and another file of a run.
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
    """Turn an OSError inside the block, which writes to the path of an option, into a RunError."""
    try:
        yield
    except OSError as error:
        raise RunError(f"cannot write {out}: {error.strerror or error}; give another place with --{option}.") from None
