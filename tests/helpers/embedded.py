"""Embeddings by numpy, and the disk of `clipret embed`, which stops at any step."""

from pathlib import Path

import numpy as np

from clipret import FeatureCache
from clipret.exports.embeddings import outputs
from tests.helpers.caches import Killed


def embedded_by_hand(cache: FeatureCache, side: str) -> np.ndarray:
    """(n, E) float64, of all rows, through the cache's own projection."""
    features = np.asarray(getattr(cache, f"{side}_features"), dtype=np.float64)
    values = features @ cache.projections[f"{side}/weight"].astype(np.float64)
    values += cache.projections.get(f"{side}/bias", 0)
    return values / np.linalg.norm(values, axis=1, keepdims=True)


class SteppedDisk:
    """Counts writes, waits for the disk and renames, and raises at one of them.

    torn   whether half of the write that is stopped at is still done
    error  what is raised at that step, and at all after it
    """

    def __init__(self, monkeypatch, *, stop_at=None, torn=False, error=Killed):
        self.steps, self._stop_at, self._torn, self._error = 0, stop_at, torn, error
        self._real = {name: getattr(outputs, name) for name in ("write", "sync", "rename")}
        monkeypatch.setattr(outputs, "write", self.write)
        monkeypatch.setattr(outputs, "sync", self.sync)
        monkeypatch.setattr(outputs, "rename", self.rename)

    def write(self, descriptor, data):
        if self._torn and self.steps == self._stop_at:
            view = memoryview(data).cast("B")
            self._real["write"](descriptor, view[: len(view) // 2])
        self._step()
        self._real["write"](descriptor, data)

    def sync(self, descriptor):
        self._step()
        self._real["sync"](descriptor)

    def rename(self, path, *, to):
        self._step()
        self._real["rename"](path, to=to)

    def _step(self):
        if self._stop_at is not None and self.steps >= self._stop_at:
            raise self._error
        self.steps += 1


def contents_of(folder: Path) -> dict[str, bytes]:
    """Name -> bytes of all files of a folder."""
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}
