"""Captions and image files that equal an earlier one and need not be encoded again."""

import contextlib
import hashlib
import os
import stat
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import groupby
from pathlib import Path

import numpy as np

from clipret.datasets.containers import container_of, split_container
from clipret.errors import DatasetError
from clipret.machine.progress import Progress, ProgressCallback, silent

# Read from the end of a file: all files of one camera or program start alike.
_BLOCK_BYTES = 4096
_CHUNK_BYTES = 1 << 20
# For network disks, which serve many requests at once; on a local disk the number makes no difference.
_THREADS = 8
_ROWS_AT_ONCE = 256
_REPORT_SECONDS = 1.0
_UNKNOWN = -1
# Without this flag Windows would convert line ends.
_READ = os.O_RDONLY | getattr(os, "O_BINARY", 0)


def sources_of_texts(texts: Sequence[str]) -> np.ndarray:
    """(M,) int64: for each text the row of the first equal text, which may be its own."""
    hashes = np.fromiter(map(hash, texts), dtype=np.int64, count=len(texts))
    sources = _firsts(hashes)
    if all(texts[row] == texts[sources[row]] for row in np.flatnonzero(sources != np.arange(len(texts)))):
        return sources
    # Two different texts share a hash, which is very rare: compare the texts, with more memory.
    seen = {}
    return np.array([seen.setdefault(text, row) for row, text in enumerate(texts)], dtype=np.int64)


def sources_of_images(files: Sequence[str], *, root: Path, on_progress: ProgressCallback = silent) -> np.ndarray:
    """(N,) int64: for each image the row of the first one with the same bytes, which may be its own.

    files        N paths relative to root, as in datasets.RetrievalDataset
    on_progress  called when it takes seconds, with phases "file sizes", "file ends" and "equal files"

    Equal paths are the same image. Of files with equal sizes the last block is compared, and files with equal last
    blocks are compared by sha256. A file that is empty or cannot be read is never equal to another.
    """
    same_path = sources_of_texts(files)
    sources = np.arange(len(files))
    bytes_of = _Bytes(files, root)
    rows = bytes_of.locate(np.flatnonzero(same_path == sources), on_progress)
    rows, firsts = _shared(rows, bytes_of.sizes[rows])
    for phase, digest, width in (("file ends", bytes_of.end, 1), ("equal files", bytes_of.whole, 4)):
        read, digests = _looked_up(rows, digest, width=width, report=_Reporter(phase, len(rows), on_progress))
        rows, firsts = _shared(rows[read], firsts[read], *digests[read].T)
    sources[rows] = firsts
    return sources[same_path]


class _Bytes:
    """Reads the bytes of images, from files or from members of containers, and computes digests."""

    def __init__(self, files: Sequence[str], root: Path):
        self._files, self._root = files, os.fspath(root)
        self.sizes = np.full(len(files), _UNKNOWN)

    def locate(self, rows: np.ndarray, on_progress: ProgressCallback) -> np.ndarray:
        """Read the sizes of these rows; return the rows that have bytes."""
        inside = np.fromiter((container_of(self._files[row]) is not None for row in rows), dtype=bool, count=len(rows))
        # Not in parallel: the threads would index the same shard several times.
        for folder, members in groupby(rows[inside], key=lambda row: split_container(self._files[row])[0]):
            # What is damaged is left to extraction, which says so.
            with contextlib.suppress(DatasetError):
                index = container_of(f"{folder}/").index(Path(self._root, folder))
                for row in members:
                    *_, self.sizes[row] = index.get(split_container(self._files[row])[1], (_UNKNOWN,))
        plain = rows[~inside]
        report = _Reporter("file sizes", len(plain), on_progress)
        measured, sizes = _looked_up(plain, self._size, width=1, report=report)
        self.sizes[plain[measured]] = sizes[measured, 0]
        return rows[self.sizes[rows] > 0]

    def end(self, row: int) -> np.ndarray:
        """(1,) uint64, a digest of the last block."""
        length = min(int(self.sizes[row]), _BLOCK_BYTES)
        block = b"".join(self._read(row, skipped=int(self.sizes[row]) - length, chunk=length))
        return np.frombuffer(hashlib.blake2b(block, digest_size=8).digest(), dtype="<u8")

    def whole(self, row: int) -> np.ndarray:
        """(4,) uint64, the sha256 of all bytes."""
        digest = hashlib.sha256()
        for chunk in self._read(row, chunk=_CHUNK_BYTES):
            digest.update(chunk)
        return np.frombuffer(digest.digest(), dtype="<u8")

    def _size(self, row: int) -> int:
        state = Path(f"{self._root}/{self._files[row]}").stat()
        # A folder has a size too, and reading a pipe would block.
        if not stat.S_ISREG(state.st_mode):
            raise OSError("not a regular file")
        return state.st_size

    def _read(self, row: int, *, chunk: int, skipped: int = 0) -> Iterator[bytes]:
        """The row's bytes after the first `skipped`, in chunks. Raises OSError when the file became shorter."""
        name, size = self._files[row], int(self.sizes[row])
        if container := container_of(name):
            folder, member = split_container(name)
            for start in range(skipped, size, chunk):
                yield container.read(Path(self._root, folder), member, start=start, size=chunk)
            return
        file, left = os.open(f"{self._root}/{name}", _READ), size - skipped
        try:
            os.lseek(file, skipped, os.SEEK_SET)
            while left:
                content = os.read(file, min(chunk, left))
                if not content:
                    raise OSError("a file shrank")
                left -= len(content)
                yield content
        finally:
            os.close(file)


class _Reporter:
    """Reports how many files were examined, if that takes more than a second."""

    def __init__(self, phase: str, total: int, on_progress: ProgressCallback):
        self._phase, self._total, self._on_progress = phase, total, on_progress
        self._last, self._reported = time.monotonic(), False

    def __call__(self, done: int) -> None:
        now = time.monotonic()
        if now - self._last >= _REPORT_SECONDS or (self._reported and done >= self._total):
            self._last, self._reported = now, True
            self._on_progress(Progress(self._phase, done, self._total))


def _looked_up(
    rows: np.ndarray, look: Callable, *, width: int, report: Callable[[int], None]
) -> tuple[np.ndarray, np.ndarray]:
    """`look` for K rows, by several threads: (K,) bool, whether it succeeded, and its values (K, width) uint64."""
    read, values = np.zeros(len(rows), dtype=bool), np.zeros((len(rows), width), dtype=np.uint64)

    def fill(start: int) -> int:
        stop = min(start + _ROWS_AT_ONCE, len(rows))
        for place in range(start, stop):
            try:
                value = look(rows[place])
            # ValueError: the name is not possible on this system.
            except (OSError, ValueError):
                continue
            values[place] = value
            read[place] = True
        return stop

    with ThreadPoolExecutor(max_workers=_THREADS) as pool:
        try:
            for done in pool.map(fill, range(0, len(rows), _ROWS_AT_ONCE)):
                report(done)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return read, values


def _shared(rows: np.ndarray, *keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The rows, ascending, whose keys are not unique, and for each the first row with the same keys."""
    firsts = _firsts(*keys)
    shared = np.bincount(firsts, minlength=len(rows))[firsts] > 1
    return rows[shared], rows[firsts[shared]]


def _firsts(*keys: np.ndarray) -> np.ndarray:
    """(K,) int64: for each place the first one with the same keys; keys: arrays (K,)."""
    # A stable order: within equal keys, that of the places.
    order = np.lexsort(keys)
    ordered = [key[order] for key in keys]
    new = np.ones(len(order), dtype=bool)
    new[1:] = np.any([key[1:] != key[:-1] for key in ordered], axis=0)
    firsts = np.empty(len(order), dtype=np.int64)
    firsts[order] = order[new][np.cumsum(new) - 1]
    return firsts
