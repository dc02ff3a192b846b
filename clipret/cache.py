"""features.h5: schema, writer, reader. The only importer of h5py.

Layout, format 1 (N images, M captions, D feature widths, E embedding width):

    /image/features (N, D_image)  /image/id /image/file /image/split /image/state /image/problem (N,)
    /text/features (M, D_text)    /text/caption /text/image /text/state /text/tokens (M,)
    /projection/image/weight (D_image, E)  /projection/image/bias (E,), ResNets only
    /projection/text/weight (D_text, E)    /projection/logit_scale ()
    attributes: format, fingerprint, inputs (JSON, what the fingerprint is made of), about (JSON, everything else)

All structure is written before the first feature, under another name, and the finished file is put in place. From then
on only fixed-size raw data changes, so the file opens whenever its writer is killed.
"""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
from filelock import FileLock, Timeout

from clipret.errors import (
    CacheError,
    CacheFormatError,
    CacheIncompleteError,
    CacheLockedError,
    CacheMismatchError,
)

FORMAT = 1
PENDING, DONE, UNUSABLE = 0, 1, 2
SIDES = ("image", "text")
_PROBLEM_BYTES = 160
# An extraction that was just killed may hold its lock until its workers notice, within five seconds.
_LOCK_SECONDS = 6
_REQUIRED = (
    *("image/features", "image/id", "image/file", "image/split", "image/state", "image/problem"),
    *("text/features", "text/caption", "text/image", "text/state", "text/tokens"),
    *("projection/image/weight", "projection/text/weight", "projection/logit_scale"),
)


@dataclass(frozen=True)
class CacheContents:
    """All of a cache but its features: what is known before the first image is opened.

    image_ids, image_files, image_splits, captions, caption_images  as in datasets.RetrievalDataset
    projections  image/weight, text/weight, logit_scale and perhaps image/bias: CLIP's own head
    dtype        float16 or float32, of the features
    inputs       JSON-ready values that decide the features' values; the fingerprint is made of them
    about        JSON-ready values to keep beside them
    """

    image_ids: list[str]
    image_files: list[str]
    image_splits: np.ndarray
    captions: list[str]
    caption_images: np.ndarray
    projections: dict[str, np.ndarray]
    dtype: str
    inputs: dict
    about: dict

    @property
    def fingerprint(self) -> str:
        """sha256 over the format and the inputs."""
        canonical = json.dumps({"format": FORMAT, **self.inputs}, sort_keys=True, ensure_ascii=False)
        return hashlib.sha256(canonical.encode()).hexdigest()


class CacheWriter:
    """Writes features by row into an existing cache. Made by open_writer, which holds the lock."""

    def __init__(self, path: Path, file: h5py.File):
        self._path = path
        self._file = file
        self.about = json.loads(file.attrs["about"])
        self.dtype = file["image/features"].dtype
        self.states = {side: file[side]["state"][:] for side in SIDES}

    def write_images(self, start: int, *, features: np.ndarray, problems: dict[int, str]) -> None:
        """Write image rows start, start + 1, ... at once.

        features  (B, D_image)
        problems  position in the batch -> why that image has no feature; its state becomes 2
        """
        stop = start + len(features)
        if problems:
            reasons = np.zeros(len(features), dtype=f"S{_PROBLEM_BYTES}")
            for position, reason in problems.items():
                reasons[position] = reason.encode()[:_PROBLEM_BYTES].decode(errors="ignore").encode()
            with _explained(self._path):
                self._file["image/problem"][start:stop] = reasons
        states = np.full(len(features), DONE, dtype=np.uint8)
        states[list(problems)] = UNUSABLE
        self._write("image", start, features, states)

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
            _check(path)
            file = h5py.File(path, "r+", locking=False)
        with file:
            _require_same(path, json.loads(file.attrs["inputs"]), contents.inputs)
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
        file.create_dataset("text/caption", data=contents.captions, dtype=strings)
        file.create_dataset("text/image", data=contents.caption_images, dtype=np.int64)
        for name, values in contents.projections.items():
            file.create_dataset(f"projection/{name}", data=np.asarray(values, dtype=np.float32))
        widths = {side: contents.projections[f"{side}/weight"].shape[0] for side in SIDES}
        for side, count in (("image", image_count), ("text", text_count)):
            _preallocate(file, f"{side}/features", shape=(count, widths[side]), dtype=contents.dtype)
            _preallocate(file, f"{side}/state", shape=(count,), dtype=np.uint8)
        _preallocate(file, "image/problem", shape=(image_count,), dtype=f"S{_PROBLEM_BYTES}")
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


def _check(path: Path) -> None:
    """Raise unless there is a cache of this format at `path`."""
    if not path.exists():
        raise CacheError(f"there is no cache at {path}; make it with: clipret extract --dataset NAME --out {path}")
    if path.is_dir() or not h5py.is_hdf5(path):
        raise CacheFormatError(f"{path} is not an HDF5 file; expected a cache written by clipret extract.")
    try:
        with h5py.File(path, "r", locking=False) as file:
            attributes = dict(file.attrs)
            missing = [name for name in _REQUIRED if name not in file]
    except OSError as error:
        raise CacheFormatError(f"{path} cannot be read as HDF5 ({error}); delete it and extract again.") from None
    if not {"format", "fingerprint", "inputs", "about"} <= set(attributes):
        raise CacheFormatError(f"{path} is an HDF5 file but not a clipret cache; expected one by clipret extract.")
    if attributes["format"] != FORMAT:
        raise CacheFormatError(
            f"{path} is a cache of format {attributes['format']}, this clipret reads format {FORMAT}; "
            f"extract it again, or use the clipret that wrote it."
        )
    if missing:
        raise CacheFormatError(f"{path} lacks {', '.join(missing)}; delete it and extract again.")


def _require_same(path: Path, found: dict, asked: dict) -> None:
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


class FeatureCache:
    """A finished cache, opened for reading. Features are memory-mapped; everything else is in memory.

    image_features  (N, D_image) and text_features (M, D_text): float16 or float32, not normalised
    image_ids, image_files (N strings), image_splits (N,) uint8, image_states (N,) uint8, problems {row: reason}
    captions (M strings), caption_images (M,) int64, tokens (M,) int16
    projections     CLIP's own head: image/weight, text/weight, logit_scale and, for ResNets, image/bias
    inputs, about   what decided the features, and what else was recorded
    fingerprint     sha256 over format and inputs
    """

    def __init__(self, path: Path | str, *, allow_incomplete: bool = False):
        """Open the cache at `path`.

        Raises CacheError when there is none, CacheFormatError when it is not one of format 1, and CacheIncompleteError,
        with the command that completes it, unless allow_incomplete.
        """
        self.path = Path(path)
        _check(self.path)
        with h5py.File(self.path, "r", locking=False) as file:
            self.inputs = json.loads(file.attrs["inputs"])
            self.about = json.loads(file.attrs["about"])
            self.fingerprint = str(file.attrs["fingerprint"])
            self.image_ids = list(file["image/id"].asstr()[:])
            self.image_files = list(file["image/file"].asstr()[:])
            self.image_splits = file["image/split"][:]
            self.image_states = file["image/state"][:]
            self.captions = list(file["text/caption"].asstr()[:])
            self.caption_images = file["text/image"][:]
            self.text_states = file["text/state"][:]
            self.tokens = file["text/tokens"][:]
            unusable = np.flatnonzero(self.image_states == UNUSABLE)
            self.problems = {int(row): file["image/problem"][row].decode() for row in unusable}
            self.projections = _projections(file["projection"])
            self.image_features = _memory_map(self.path, file["image/features"])
            self.text_features = _memory_map(self.path, file["text/features"])
        if not allow_incomplete and not self.complete:
            image_todo, text_todo = (int(np.sum(states == PENDING)) for states in (self.image_states, self.text_states))
            raise CacheIncompleteError(
                f"{self.path} is incomplete: {image_todo} of {len(self.image_ids)} images and {text_todo} of "
                f"{len(self.captions)} captions are still to do; complete it with: {self.about['command']}"
            )

    @property
    def complete(self) -> bool:
        """Whether no row is left to do; unusable images count as done."""
        return bool((self.image_states != PENDING).all() and (self.text_states != PENDING).all())

    @property
    def usable(self) -> np.ndarray:
        """(N,) bool: the images that have a feature."""
        return self.image_states == DONE

    def read(self, side: str, rows: np.ndarray) -> np.ndarray:
        """Features of the given rows, (len(rows), D), in memory. Raises CacheError when one is not finite."""
        features = (self.image_features if side == "image" else self.text_features)[rows]
        broken = np.flatnonzero(~np.isfinite(features).all(axis=1))
        if len(broken):
            raise CacheError(
                f"{self.path}: features of {len(broken)} {side} rows are not finite, the first of row "
                f"{rows[broken[0]]}; the cache is damaged: delete it and extract again."
            )
        return features


def _projections(group: h5py.Group) -> dict[str, np.ndarray]:
    names = ("image/weight", "image/bias", "text/weight", "logit_scale")
    return {name: group[name][()] for name in names if name in group}


def _memory_map(path: Path, dataset: h5py.Dataset) -> np.ndarray:
    offset = dataset.id.get_offset()
    if offset is None:
        raise CacheFormatError(
            f"{path}: {dataset.name} is not stored contiguously; expected the layout that clipret extract writes."
        )
    return np.memmap(path, dtype=dataset.dtype, mode="r", offset=offset, shape=dataset.shape)
