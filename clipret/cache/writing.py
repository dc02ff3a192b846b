"""Making a cache, and writing features into it, as its only writer."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import h5py
import numpy as np
from filelock import FileLock, Timeout

from clipret.cache.layout import (
    DONE,
    FORMAT,
    PENDING,
    PROBLEM_BYTES,
    SIDES,
    UNUSABLE,
    CacheContents,
    read_problems,
    require_cache,
)
from clipret.errors import CacheError, CacheLockedError, CacheMismatchError

# An extraction that was just killed may hold its lock until its workers notice, within five seconds.
_LOCK_SECONDS = 6


class CacheWriter:
    """Writes features by row into an existing cache. Made by open_writer, which holds the lock.

    states    image, text -> (N,), (M,) uint8: PENDING, DONE or UNUSABLE, as they are now
    problems  image row -> why it has no feature, for the rows of state 2
    """

    def __init__(self, path: Path, file: h5py.File):
        self._path = path
        self._file = file
        self.about = json.loads(file.attrs["about"])
        self.dtype = file["image/features"].dtype
        self.states = {side: file[side]["state"][:] for side in SIDES}
        self.problems = read_problems(file, self.states["image"])

    def write_images(self, start: int, *, features: np.ndarray, problems: dict[int, str]) -> None:
        """Write those of the image rows start, start + 1, ... that are still to do; the others keep what they have.

        features  (B, D_image)
        problems  position in the batch -> why that image has no feature; its state becomes 2
        """
        rows, image = slice(start, start + len(features)), self._file["image"]
        reasons = np.zeros(len(features), dtype=image["problem"].dtype)
        for position, reason in problems.items():
            reasons[position] = reason.encode()[:PROBLEM_BYTES].decode(errors="ignore").encode()
        states = np.full(len(features), DONE, dtype=np.uint8)
        states[list(problems)] = UNUSABLE
        settled = self.states["image"][rows] != PENDING
        with _explained(self._path):
            if settled.any():
                features = np.where(settled[:, None], image["features"][rows], features)
                reasons = np.where(settled, image["problem"][rows], reasons)
                states = np.where(settled, self.states["image"][rows], states)
            # Of every row: an extraction that was killed here may have left the reason of an image mended since.
            image["problem"][rows] = reasons
        self._write("image", start, features, states)
        self.problems |= {start + int(at): reasons[at].decode() for at in np.flatnonzero(states == UNUSABLE)}

    def forget_problems(self) -> None:
        """Set the rows of state 2 back to 0, and empty their reasons."""
        states, reasons = self.states["image"], self._file["image/problem"][:]
        unusable = states == UNUSABLE
        states[unusable], reasons[unusable] = PENDING, b""
        with _explained(self._path):
            self._file["image/state"][:] = states
            self._file.flush()
            self._file["image/problem"][:] = reasons
            self._file.flush()
        self.problems = {}

    def write_texts(self, start: int, *, features: np.ndarray, tokens: np.ndarray) -> None:
        """Write caption rows start, start + 1, ...: features (B, D_text) and tokens (B,) before truncation."""
        with _explained(self._path):
            self._file["text/tokens"][start : start + len(features)] = np.minimum(tokens, np.iinfo(np.int16).max)
        self._write("text", start, features, np.full(len(features), DONE, dtype=np.uint8))

    def _write(self, side: str, start: int, features: np.ndarray, states: np.ndarray) -> None:
        rows = slice(start, start + len(features))
        with _explained(self._path):
            self._file[side]["features"][rows] = features
            # The feature must have left this process before its row is called done.
            self._file.flush()
            self._file[side]["state"][rows] = states
            self._file.flush()
        self.states[side][rows] = states


@contextmanager
def open_writer(path: Path, contents: CacheContents) -> Iterator[CacheWriter]:
    """Make the cache, or open the one that is there to go on with it, as its only writer.

    Raises CacheLockedError when another process writes it, CacheMismatchError when the cache that is there was made
    from other inputs, CacheFormatError when the file is no cache, CacheError when it cannot be written.
    """
    lock = FileLock(f"{path}.lock")
    with _explained(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(timeout=_LOCK_SECONDS)
        except Timeout:
            raise CacheLockedError(f"another process is writing {path}; wait for it, or give another --out.") from None
    try:
        with _explained(path):
            if not path.exists():
                _create(path, contents)
            require_cache(path)
            file = h5py.File(path, "r+", locking=False)
        with file:
            _require_same(path, found=json.loads(file.attrs["inputs"]), asked=contents.inputs)
            yield CacheWriter(path, file)
    finally:
        lock.release()


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Turn the system's refusal to write into an error for the user."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error).splitlines()[0]
        if isinstance(error, (FileExistsError, NotADirectoryError)):
            reason = f"{path.parent} is not a folder"
        raise CacheError(
            f"cannot write {path}: {reason}. Finished rows are kept; once that is mended the same command goes on."
        ) from error


def _create(path: Path, contents: CacheContents) -> None:
    unfinished = path.with_name(path.name + ".new")
    with h5py.File(unfinished, "w", libver="earliest", locking=False) as file:
        image_count, text_count = len(contents.image_ids), len(contents.captions)
        strings = h5py.string_dtype()
        file.create_dataset("image/id", data=contents.image_ids, dtype=strings)
        file.create_dataset("image/file", data=contents.image_files, dtype=strings)
        file.create_dataset("image/split", data=contents.image_splits, dtype=np.uint8)
        file.create_dataset("text/id", data=contents.caption_ids, dtype=strings)
        file.create_dataset("text/caption", data=contents.captions, dtype=strings)
        file.create_dataset("text/image", data=contents.caption_images, dtype=np.int64)
        for name, values in contents.projections.items():
            file.create_dataset(f"projection/{name}", data=np.asarray(values, dtype=np.float32))
        widths = {side: contents.projections[f"{side}/weight"].shape[0] for side in SIDES}
        for side, count in (("image", image_count), ("text", text_count)):
            _preallocate(file, f"{side}/features", shape=(count, widths[side]), dtype=contents.dtype)
            _preallocate(file, f"{side}/state", shape=(count,), dtype=np.uint8)
        _preallocate(file, "image/problem", shape=(image_count,), dtype=f"S{PROBLEM_BYTES}")
        _preallocate(file, "text/tokens", shape=(text_count,), dtype=np.int16)
        file.attrs["format"] = FORMAT
        file.attrs["fingerprint"] = contents.fingerprint
        file.attrs["inputs"] = json.dumps(contents.inputs, ensure_ascii=False)
        file.attrs["about"] = json.dumps(contents.about, ensure_ascii=False)
    unfinished.replace(path)


def _preallocate(file: h5py.File, name: str, *, shape: tuple, dtype) -> None:
    """An all-zero contiguous array whose place in the file is fixed now: HDF5's default waits for the first write."""
    creation = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    creation.set_layout(h5py.h5d.CONTIGUOUS)
    creation.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    creation.set_fill_time(h5py.h5d.FILL_TIME_ALLOC)
    group = file.require_group(name.rpartition("/")[0])
    kind = h5py.h5t.py_create(np.dtype(dtype))
    h5py.h5d.create(group.id, name.rpartition("/")[2].encode(), kind, h5py.h5s.create_simple(shape), creation)


def _require_same(path: Path, *, found: dict, asked: dict) -> None:
    differences = [
        f"{name}: it has {found.get(name)!r}, asked for {asked.get(name)!r}"
        for name in sorted({*found, *asked})
        if found.get(name) != asked.get(name)
    ]
    if differences:
        raise CacheMismatchError(
            f"{path} was made from other inputs ({'; '.join(differences)}). "
            f"Nothing was changed; give another --out, or delete it."
        )
