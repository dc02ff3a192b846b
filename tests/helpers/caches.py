"""Writing caches and shards in the tests, stopping their writers at any step, and comparing every array's bytes."""

from contextlib import contextmanager
from pathlib import Path
from threading import Lock

import h5py
import numpy as np

from clipret.cache import Part, join_shards, open_writer, raw
from clipret.cache.seal import write_seal
from tests.conftest import contents

PROBLEMS = {3: "not an image", 17: "empty file: 0 bytes", 41: "ü" * 100}
IMAGE_COPIES = {9: 2, 30: 3, 59: 12}
TEXT_COPIES = {20: 4, 21: 4, 100: 77}


MADE = contents()
COUNTS = {"image": len(MADE.image_ids), "text": len(MADE.captions)}
SOURCES = {
    side: np.array([copies.get(row, row) for row in range(COUNTS[side])])
    for side, copies in (("image", IMAGE_COPIES), ("text", TEXT_COPIES))
}


class Killed(BaseException):
    """What nothing catches: SIGKILL, or the plug pulled."""


class Disk:
    """Watches what writers hand to the system, and stops them at a given step: a write, or waiting for the disk.

    steps  those that were taken
    torn   whether half of the write that is stopped at is still done
    error  what is raised from then on
    """

    def __init__(self, monkeypatch, *, stop_at=None, torn=False, error=Killed):
        self.steps, self._stop_at, self._torn, self._error = 0, stop_at, torn, error
        self.log, self._lock = [], Lock()
        self._write, self._sync = raw.write_at, raw.RawFile.sync
        monkeypatch.setattr(raw, "write_at", self.write_at)
        monkeypatch.setattr(raw.RawFile, "sync", lambda file: self.sync(file))

    def write_at(self, descriptor, data, *, offset):
        # Threads may write at once.
        with self._lock:
            if self.stopped and self.steps == self._stop_at and self._torn:
                data = data[: len(data) // 2]
                self._write(descriptor, data, offset=offset)
            self._step()
            self._write(descriptor, data, offset=offset)
            self.log.append((offset, bytes(data)))

    def sync(self, file):
        self._step()
        self._sync(file)
        self.log.append(None)

    @property
    def stopped(self):
        return self._stop_at is not None and self.steps >= self._stop_at

    def _step(self):
        if self.stopped:
            self.steps = self._stop_at + 1
            raise self._error
        self.steps += 1


def features_of(rows: np.ndarray, *, width: int) -> np.ndarray:
    """(n, width) float16, another row for every number."""
    values = [np.random.default_rng(row).standard_normal(width) for row in rows.tolist()]
    return np.array(values, dtype=np.float16).reshape(len(rows), width)


def digests_of(rows: np.ndarray) -> np.ndarray:
    """(n, 32) uint8, another one for every number; of one image in seven none, as if its bytes could not be read."""
    digests = [np.random.default_rng(row).integers(256, size=32) * (row % 7 != 3) for row in rows.tolist()]
    return np.array(digests, dtype=np.uint8).reshape(len(rows), 32)


def fill(writer, *, batch: int = 16, copies: bool = True) -> None:
    """Write what is to do: images in batches, captions in a mixed order, then the copies."""
    own = {"image": IMAGE_COPIES, "text": TEXT_COPIES} if copies else {"image": {}, "text": {}}
    rows = np.setdiff1d(writer.pending("image"), list(own["image"]))
    for start in range(0, len(rows), batch):
        chosen = rows[start : start + batch]
        problems = {place: PROBLEMS[row] for place, row in enumerate(chosen.tolist()) if row in PROBLEMS}
        writer.write_images(
            chosen,
            features=features_of(chosen, width=24),
            problems=problems,
            digests=digests_of(chosen),
            single_colour=chosen % 5 == 1,
        )
    rows = np.setdiff1d(writer.pending("text"), list(own["text"]))
    rows = rows[np.argsort(rows * 37 % 11, kind="stable")]
    for start in range(0, len(rows), batch):
        chosen = rows[start : start + batch]
        writer.write_texts(chosen, features=features_of(chosen + 1000, width=16), tokens=2 + chosen % 50)
    for side, sources in own.items():
        held = writer.rows[side]
        todo = [row for row in writer.pending(side).tolist() if sources[row] in held]
        writer.copy_rows(side, np.array(todo, dtype=np.int64), np.array([sources[row] for row in todo], dtype=np.int64))


def cut(count):
    """Parts of different sizes, some of which have no captions when there are many."""
    edges = {side: np.linspace(0, rows, count + 1).astype(int) for side, rows in COUNTS.items()}
    if count > 4:
        edges["text"][1:3] = 0
        edges["text"][-3:] = COUNTS["text"]
    return [
        Part(index, count, {side: range(int(at[index]), int(at[index + 1])) for side, at in edges.items()})
        for index in range(count)
    ]


def write_shards(path, parts, made=MADE):
    for part in parts:
        with open_writer(path, made, part=part) as writer:
            fill(writer)


def join(path, parts, *, merge=True, made=MADE):
    join_shards(path, made, parts=parts, sources=SOURCES, merge=merge)


def arrays(path: Path) -> dict[str, bytes]:
    """Every array of a file, read with plain h5py, and its fingerprint, as bytes."""
    found = {}
    with h5py.File(path, "r", locking=False) as file:

        def visit(name, item):
            if isinstance(item, h5py.Dataset):
                values = item[()]
                found[name] = repr(values.tolist()).encode() if values.dtype == object else values.tobytes()

        file.visititems(visit)
        found["fingerprint"] = file.attrs["fingerprint"].encode()
    return found


@contextmanager
def tampered(path: Path):
    """The file, open to be changed by h5py, and sealed anew as if it had been written so: what only its schema tells.

    The space of what is deleted stays in the file.
    """
    with h5py.File(path, "r+", locking=False) as file:
        yield file
    write_seal(path, command="clipret extract --dataset made")
