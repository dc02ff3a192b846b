"""A trained head -> another library's folder: the function behind `clipret export`."""

import importlib
import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import Timeout

from clipret.config import ExportConfig
from clipret.config.checks import one_of
from clipret.errors import ClipretError, ExportError, UsageError
from clipret.exports import TARGETS
from clipret.exports.checkpoints.card.text import FILE as CARD
from clipret.exports.checkpoints.card.text import card_text, read_figures
from clipret.exports.checkpoints.description import describe
from clipret.exports.checkpoints.source import Opened, open_source
from clipret.exports.checkpoints.verification import take_sample, verify
from clipret.exports.packages import require_package
from clipret.exports.targets.target import Target
from clipret.machine.escaping import without_folders
from clipret.machine.files import UNFINISHED, locked, sync_folder, sync_tree
from clipret.machine.progress import Progress, ProgressCallback, silent
from clipret.runs import write_json

RECORD = "clipret_export.json"
_STEPS = 3


def export(config: ExportConfig, *, on_progress: ProgressCallback = silent) -> dict:
    """Write a trained head, with its encoder where the target takes it, in the form of another library.

    on_progress  called with phase "load", "write", "verify" and "finish"

    The folder has its name once it was opened by that library in a fresh process and gave the embeddings of clipret.

    Returns the content of clipret_export.json, and out (the folder) and seconds.

    Raises UsageError for an unknown target or a missing package, RunError, CacheError, HeadError, BackboneError, and
    ExportError when the target has no place for the head, the folder cannot be written, or gives other embeddings.
    """
    started = time.monotonic()
    one_of("to", config.to, allowed=tuple(TARGETS))
    row = TARGETS[config.to]
    require_package(row.package, extra=row.extra, option=f"--to {config.to}")
    _check_out(config.out)
    target = load_target(config.to)
    report = iter(range(_STEPS + 1))

    def step(phase: str) -> None:
        on_progress(Progress(phase, next(report), _STEPS))

    step("load")
    opened = open_source(config, encoder=target.encoder)
    _require_place(config, opened, target)
    try:
        with locked(config.out.with_name(f"{config.out.name}.lock")):
            # Another process may have written it since.
            _require_free(config.out)
            about = _write(config, opened, target, step=step)
    except Timeout:
        raise ExportError(f"another process is writing {config.out}; wait for it, or give another --out.") from None
    except OSError as error:
        raise ExportError(
            f"cannot write {config.out}: {error.strerror or error}. Nothing of it is kept; once that is fixed, start "
            f"the same command again."
        ) from error
    step("finish")
    return {**about, "out": str(config.out), "seconds": time.monotonic() - started}


def load_target(name: str) -> Target:
    """The target of a row of TARGETS."""
    return importlib.import_module(TARGETS[name].module).TARGET


def _check_out(out: Path) -> None:
    if out.name in ("", ".."):
        raise UsageError(f"--out is '{out}', which has no name of its own; expected a new folder.")
    _require_free(out)
    if not out.parent.is_dir():
        raise UsageError(f"--out is '{out}', but there is no folder {out.parent}; make it first.")


def _require_free(out: Path) -> None:
    """Raise ExportError unless there is nothing at `out`, or an empty folder."""
    try:
        # No folder can take the place of a link, not even of one that leads nowhere.
        taken = out.is_symlink() or (out.exists() and (not out.is_dir() or any(out.iterdir())))
    except OSError as error:
        raise ExportError(f"cannot write {out}: {error.strerror}.") from None
    if taken:
        raise ExportError(f"{out} is there already; give another --out, or delete it.")


def _require_place(config: ExportConfig, opened: Opened, target: Target) -> None:
    reason = target.refusal(opened.source)
    if reason is None:
        return
    raise ExportError(f"{config.run} cannot be exported to {config.to}: {reason}; {_advice(config, opened)}.")


def _advice(config: ExportConfig, opened: Opened) -> str:
    """The other targets that can take a head."""
    source = opened.source
    if source.encoder is None:
        try:
            source = open_source(config, encoder=True).source
        except ClipretError:
            return "the other targets need its encoder, which is not at hand"
    others = {name: load_target(name) for name in TARGETS if name != config.to}
    can = [name for name, other in others.items() if other.refusal(source) is None]
    return f"what can: --to {' or '.join(can)}" if can else "no other target can either"


def _write(config: ExportConfig, opened: Opened, target: Target, *, step) -> dict:
    # What can be wrong with the run's own files is said before the long part.
    figures = read_figures(opened.places.run)
    about = describe(config, opened, figures=figures)
    unfinished = config.out.with_name(config.out.name + UNFINISHED)
    _clear(unfinished)
    unfinished.mkdir()
    # By this file a later call knows that the folder is its own.
    (unfinished / RECORD).write_text("{}", encoding="utf-8")
    try:
        with tempfile.TemporaryDirectory(prefix="clipret-export-") as scratch:
            step("write")
            with _disk_errors():
                target.write(opened.source, unfinished)
            _let_others_read(unfinished)
            step("verify")
            sample = take_sample(opened, root=config.root, scratch=Path(scratch))
            verified = verify(target, config.to, folder=unfinished, sample=sample, scratch=Path(scratch))
        about |= {
            "verified": verified,
            "cached": {"dtype": opened.cache.dtype.name, "difference": sample.cached},
            "images_missing": sample.missing and without_folders(sample.missing),
            "remarks": list(target.remarks(opened.source)),
        }
        card = card_text(about, target, figures=figures)
        (unfinished / CARD).write_text(card, encoding="utf-8", newline="\n")
        files = sorted(path for path in unfinished.rglob("*") if path.is_file() and path.name != RECORD)
        about["files"] = {path.relative_to(unfinished).as_posix(): path.stat().st_size for path in files}
        write_json(unfinished / RECORD, about)
        sync_tree(unfinished)
        if config.out.exists():
            config.out.rmdir()
        unfinished.rename(config.out)
        sync_folder(config.out.parent)
    finally:
        _clear(unfinished)
    return about


@contextmanager
def _disk_errors() -> Iterator[None]:
    """Turn what other libraries raise when the disk is full, or fails otherwise, into OSError."""
    try:
        yield
    except (OSError, ClipretError):
        raise
    except Exception as error:
        # torch's own words are of positions; the reason is behind them.
        if isinstance(error.__context__, OSError):
            raise error.__context__ from None
        # Libraries in Rust, as safetensors and tokenizers, have errors of their own.
        number = re.search(r"\(os error (\d+)\)", str(error))
        if number is None:
            raise
        raise OSError(int(number[1]), os.strerror(int(number[1]))) from error


def _let_others_read(folder: Path) -> None:
    """Give files the mode of new ones: safetensors makes some that only their owner can read."""
    mode = (folder / RECORD).stat().st_mode
    for path in folder.rglob("*"):
        if path.is_file():
            path.chmod(mode)


def _clear(unfinished: Path) -> None:
    """Remove what a stopped export left. Raises ExportError when it is another's."""
    if not (unfinished.exists() or unfinished.is_symlink()):
        return
    if unfinished.is_symlink() or not unfinished.is_dir() or not _is_ours(unfinished):
        raise ExportError(f"{unfinished} is there, and not from clipret export; move it away, or give another --out.")
    for path in unfinished.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        elif path.name != RECORD:
            path.unlink()
    # Last, so that a process killed in between leaves a folder that is known for its own.
    (unfinished / RECORD).unlink(missing_ok=True)
    unfinished.rmdir()


def _is_ours(unfinished: Path) -> bool:
    """Whether a folder has the record of an export, or, of one that was stopped at once, nothing yet."""
    return (unfinished / RECORD).is_file() or not any(unfinished.iterdir())
