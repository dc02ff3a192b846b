"""OUT.json, which says of what cache and head the files are, and that they are complete."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from clipret.errors import ExportError
from clipret.exports.embeddings.outputs import progress_path, read_progress, unfinished, write_whole
from clipret.machine.records import AtLeast, Each, RecordError, read_record, record_text
from clipret.runs import reason

FORMAT = 1
_FORM = {
    "format": int,
    "identity": Each(str),
    "head": {"name": str, "path": (str, None)},
    "files": Each(AtLeast(0)),
    "indexes": Each(AtLeast(0)),
}
# What decides the embeddings, in words.
_DECIDES = {"cache": "cache", "head": "head", "split": "--split", "dtype": "--dtype"}


def record_path(out: Path) -> Path:
    """The record of the files of OUT."""
    return out.with_name(f"{out.name}.json")


def read_about(out: Path) -> dict | None:
    """The record of the files of OUT; None: there is none. Raises ExportError when it is not one."""
    path = record_path(out)
    try:
        return read_record(path, _FORM, version=FORMAT)
    except FileNotFoundError:
        return None
    except (OSError, RecordError) as error:
        raise ExportError(
            f"{path} is not a record of embeddings ({reason(error)}); delete it, or write elsewhere."
        ) from None


def write_about(out: Path, about: Mapping[str, Any]) -> None:
    """Write the record."""
    write_whole(record_path(out), record_text(about, indent=2).encode() + b"\n")


def forget_progress(out: Path) -> None:
    """Remove what was recorded of how far the files were, now that they are complete."""
    for path in (progress_path(out), unfinished(progress_path(out)), unfinished(record_path(out))):
        path.unlink(missing_ok=True)


def head_identity(head, *, name: str) -> str:
    """sha256 over the kind, the settings and the tensors of a head."""
    digest = hashlib.sha256(f"{name} {head.kind} {sorted(head.metadata.items())}".encode())
    for tensor_name, tensor in sorted(head.tensors.items()):
        digest.update(f"{tensor_name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def head_in_words(head: Mapping[str, str | None]) -> str:
    """The path of a head of a record, or which of the cache's own it is."""
    return head["path"] or f"the {head['name']} head"


def require_place(out: Path, paths: tuple[Path, ...], *, identity: Mapping[str, str]) -> dict | None:
    """The record of the embeddings where they are there already, complete; None where they are to be written.

    Raises ExportError when there are embeddings of another cache, head, split or type, finished or not, or other files.
    """
    about = read_about(out)
    if about is not None:
        changed = _changed(about["identity"], identity)
        if changed:
            raise ExportError(
                f"{out} has the embeddings of another {changed} (by {head_in_words(about['head'])}); write "
                f"elsewhere, or delete {record_path(out)} and the files that it lists."
            )
        if all(_size(out.parent / name) == size for name, size in about["files"].items()):
            return about
        raise ExportError(
            f"{record_path(out)} says that the embeddings are complete, but its files are not there, or of another "
            f"size; delete it and the files that it lists, and start the same command again."
        )
    progress = read_progress(out)
    if progress is not None and (changed := _changed(progress["identity"], identity)):
        raise ExportError(
            f"{progress_path(out)} is of interrupted embeddings of another {changed}; write elsewhere, or delete it "
            f"to start again."
        )
    present = [path for path in paths if path.exists()]
    if present and not (progress is not None and progress["whole"]):
        raise ExportError(f"{present[0]} is there, and not from clipret embed; delete it, or write elsewhere.")
    return None


def discard_others(out: Path, *, identity: Mapping[str, str]) -> None:
    """Delete embeddings of another cache, head, split or type, with their record, finished or not; else nothing.

    The record goes last: what is left of a deletion that was cut short is deleted by the next. Raises ExportError when
    the record is not one.
    """
    about, progress = read_about(out), read_progress(out)
    if about is not None and _changed(about["identity"], identity):
        for name in (*about["files"], *about["indexes"]):
            # Only names, whatever a record says.
            (out.parent / Path(name).name).unlink(missing_ok=True)
        record_path(out).unlink()
    if progress is not None and _changed(progress["identity"], identity):
        for name in progress["sizes"]:
            path = out.parent / Path(name).name
            for part in (unfinished(path), path) if progress["whole"] else (unfinished(path),):
                part.unlink(missing_ok=True)
        progress_path(out).unlink()


def _changed(before: Mapping[str, str], now: Mapping[str, str]) -> str:
    words = [word for name, word in _DECIDES.items() if before.get(name) != now[name]]
    return " and ".join(words)


def _size(path: Path) -> int | None:
    return path.stat().st_size if path.is_file() else None
