"""A cache and a head -> embeddings in files for other programs: the function behind `clipret embed`."""

import importlib
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from filelock import Timeout

from clipret.cache import FeatureCache, open_features
from clipret.config import EmbedConfig
from clipret.config.checks import one_of
from clipret.errors import ExportError, UsageError
from clipret.evaluation.inputs import find_source
from clipret.exports import EMBEDDING_FORMATS, INDEXES
from clipret.exports.embeddings.computing import embedding_blocks, embedding_width
from clipret.exports.embeddings.outputs import Outputs, rename, unfinished
from clipret.exports.embeddings.record import (
    FORMAT,
    discard_others,
    forget_progress,
    head_identity,
    record_path,
    require_place,
    write_about,
)
from clipret.exports.embeddings.rows import Selection, Span, text_blocks
from clipret.exports.embeddings.writing import PLURALS, Shape, Writer
from clipret.exports.packages import require_package
from clipret.heads.base import Head
from clipret.heads.files import load_head
from clipret.heads.linear import LinearHead
from clipret.machine.devices import choose_device
from clipret.machine.files import locked, sync_path
from clipret.machine.progress import Progress, ProgressCallback, silent
from clipret.retrieval.baseline import baseline_name, baseline_projections
from clipret.retrieval.inputs import require_inputs

ORDER = "images by their rows in the cache, then captions by theirs"


@dataclass(frozen=True)
class Job:
    """What is embedded, and into what.

    name  of the head: zero-shot, closed-form or trained
    path  of its file; None: the cache's own
    """

    config: EmbedConfig
    cache: FeatureCache
    head: Head
    name: str
    path: Path | None
    device: str
    selection: Selection
    writer: Writer
    identity: dict[str, str]

    def blocks(self, spans: list[Span]):
        """Embeddings of spans."""
        return embedding_blocks(self.cache, self.head, spans=spans, dtype=self.config.dtype, device=self.device)


def embed(config: EmbedConfig, *, on_progress: ProgressCallback = silent) -> dict:
    """Write the embeddings of both sides of a cache, with ids, files, captions and splits.

    on_progress  called after each block of 1,024 rows with phase "embeddings", and with phase "index"

    They are what eval ranks: the head's output, of unit length. Rows are in the order of the cache, images first; rows
    without a feature are left out. Killed at any moment, the same call goes on, to the same bytes; a Parquet file
    starts again. Files have their names once they are complete. Embeddings that are there, complete and of the same
    cache and head, are left as they are.

    Returns the content of OUT.json: format, identity (what decides the embeddings), cache, head (name, path), split,
    dtype, width, rows and left_out (of images and texts), order, files and indexes (name -> bytes); and out, record
    (paths), written (whether anything was) and seconds.

    Raises UsageError for another ending or a package that is not installed, CacheError, HeadError, RunError, and
    ExportError when the files cannot be written or are of another head.
    """
    started = time.monotonic()
    _check_out(config.out)
    row = EMBEDDING_FORMATS[config.out.suffix]
    require_package(row.package, extra=row.extra, option=f"--out {config.out}")
    if config.index:
        one_of("index", config.index, allowed=tuple(INDEXES))
        index = INDEXES[config.index]
        require_package(index.package, extra=index.extra, option=f"--index {config.index}")
    job = _open_job(config, kind=importlib.import_module(row.module).WRITER)
    try:
        with locked(config.out.with_name(f"{config.out.name}.lock")):
            if config.replace:
                discard_others(config.out, identity=job.identity)
            about = require_place(config.out, job.writer.all_paths, identity=job.identity)
            written = about is None
            about = about or _write(job, on_progress)
            forget_progress(config.out)
            if config.index:
                written = _write_indexes(job, about, on_progress) or written
    except Timeout:
        raise ExportError(f"another process is writing {config.out}; wait for it, or write elsewhere.") from None
    except OSError as error:
        kept = "written blocks are kept" if job.writer.resumable else "nothing of it is kept"
        raise ExportError(
            f"cannot write {config.out}: {error.strerror or error}; {kept}. Once that is fixed, start the same command "
            f"again."
        ) from error
    places = {"out": str(config.out), "record": str(record_path(config.out))}
    return {**about, **places, "written": written, "seconds": time.monotonic() - started}


def _check_out(out: Path) -> None:
    if out.suffix not in EMBEDDING_FORMATS:
        raise UsageError(f"--out is '{out}'; expected a file that ends with {' or '.join(EMBEDDING_FORMATS)}.")
    if out.is_dir():
        raise UsageError(f"--out is '{out}', a folder; expected a file.")
    if not out.parent.is_dir():
        raise UsageError(f"--out is '{out}', but there is no folder {out.parent}; make it first.")


def _open_job(config: EmbedConfig, *, kind: type[Writer]) -> Job:
    device, cache = choose_device(config.device), open_features(config.cache)
    selection, path = Selection(cache, split=config.split), None
    if config.head:
        path = find_source(cache=config.cache, head=config.head, zero_shot=False, runs_dir=Path()).head
        projections = baseline_projections(cache)
        name, head = "trained", load_head(path, projections=projections, weights_sha256=cache.inputs["weights_sha256"])
    else:
        name, head = baseline_name(cache), LinearHead(baseline_projections(cache))
    require_inputs(cache, {side: head.inputs[side] for side in selection.sides})
    width = embedding_width(head, cache, side=selection.sides[0])
    identity = {
        "cache": cache.fingerprint,
        "head": head_identity(head, name=name),
        "split": config.split,
        "dtype": config.dtype,
    }
    shape = Shape({side: len(selection.rows[side]) for side in selection.sides}, width, config.dtype)
    metadata = {"model": cache.about["model"], "head_name": name, **identity, "order": ORDER}
    writer = kind(config.out, shape, metadata=metadata)
    return Job(config, cache, head.to(device), name, path, device, selection, writer, identity)


def _write(job: Job, on_progress: ProgressCallback) -> dict:
    """Write all files of the embeddings, then the record."""
    writer, spans = job.writer, job.selection.spans()
    # Other devices compute other last bits.
    identity = job.identity | {"device": job.device}
    outputs = Outputs(job.config.out, writer.all_paths, identity=identity, resumable=writer.resumable)
    try:
        if not outputs.whole:
            _append(job, outputs, spans=spans, on_progress=on_progress)
        files = outputs.finish()
    except BaseException:
        with suppress(OSError):
            outputs.record()
        writer.abandon()
        raise
    finally:
        outputs.close()
        if not writer.resumable and not outputs.whole:
            unfinished(job.config.out).unlink(missing_ok=True)
    about = _describe(job, files)
    write_about(job.config.out, about)
    return about


def _append(job: Job, outputs: Outputs, *, spans: list[Span], on_progress: ProgressCallback) -> None:
    total, left = sum(len(span.rows) for span in spans), spans[outputs.blocks :]
    done = total - sum(len(span.rows) for span in left)
    if not outputs.blocks or not job.writer.resumable:
        job.writer.start(outputs)
    for span, embeddings, texts in zip(left, job.blocks(left), text_blocks(job.cache, left), strict=True):
        job.writer.write(outputs, span, embeddings=embeddings, texts=texts)
        outputs.end_block()
        done += len(span.rows)
        on_progress(Progress("embeddings", done, total))
    job.writer.end(outputs)


def _describe(job: Job, files: Mapping[str, int]) -> dict:
    cache, config = job.cache, job.config
    return {
        "format": FORMAT,
        "identity": job.identity,
        "cache": {"path": str(config.cache), "model": cache.about["model"], "dataset": cache.inputs["dataset"]},
        "head": {"name": job.name, "path": str(job.path) if job.path else None},
        "split": config.split,
        "dtype": config.dtype,
        "width": job.writer.shape.width,
        "rows": {PLURALS[side]: count for side, count in job.writer.shape.counts.items()},
        "left_out": {PLURALS[side]: job.selection.left_out[side] for side in job.writer.shape.counts},
        "order": ORDER,
        "files": dict(files),
        "indexes": {},
    }


def _write_indexes(job: Job, about: dict, on_progress: ProgressCallback) -> bool:
    """Write the indexes that are not there, and say so in the record; returns whether any was written.

    Raises ExportError when another file is in the place of one.
    """
    kind, written = job.config.index, False
    write_index = importlib.import_module(INDEXES[kind].module).write_index
    for side, count in job.writer.shape.counts.items():
        path = job.writer.beside(side, kind)
        if path.exists() and about["indexes"].get(path.name) == path.stat().st_size:
            continue
        if path.exists():
            raise ExportError(f"{path} is there, and not from clipret embed; delete it, or write elsewhere.")
        if count:
            _write_index(job, path, side=side, write=write_index, on_progress=on_progress)
            about["indexes"][path.name] = unfinished(path).stat().st_size
            write_about(job.config.out, about)
            rename(unfinished(path), to=path)
            written = True
    return written


def _write_index(job: Job, path: Path, *, side: str, write: Callable, on_progress: ProgressCallback) -> None:
    """Write the index of a side under its unfinished name. Raises ExportError."""
    spans, shape = [span for span in job.selection.spans() if span.side == side], job.writer.shape
    phase = f"index of {PLURALS[side]}"
    blocks = _reported(job.blocks(spans), phase, total=shape.counts[side], report=on_progress)
    try:
        write(unfinished(path), blocks, width=shape.width, dtype=shape.dtype)
        sync_path(unfinished(path))
    except BaseException as error:
        unfinished(path).unlink(missing_ok=True)
        # What these libraries raise whatever goes wrong, where the disk is full too.
        if isinstance(error, RuntimeError):
            raise ExportError(
                f"cannot write {path}: {' '.join(str(error).split())}; the embeddings themselves are complete. Once "
                f"that is fixed, start the same command again."
            ) from error
        raise


def _reported(blocks, phase: str, *, total: int, report: ProgressCallback):
    done = 0
    for block in blocks:
        yield block
        done += len(block)
        report(Progress(phase, done, total))
