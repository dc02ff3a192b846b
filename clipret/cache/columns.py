"""Reading the texts of a cache: ids, files, captions."""

import contextlib
from collections.abc import Sequence

import h5py
import numpy as np

from clipret.cache.heaps import is_column_readable
from clipret.cache.layout import PACKED, legible
from clipret.cache.seal import BLOCK
from clipret.cache.texts import ImpliedTexts, PackedTexts
from clipret.errors import CacheDamagedError

_CAPTIONS_AT_ONCE = 65_536


def read_texts(cache, name: str) -> Sequence[str]:
    """The column `name` of a FeatureCache. Raises CacheDamagedError when the texts have no end."""
    cache = cache.members[0]
    path = cache.path
    with legible(path), h5py.File(path, "r", locking=False) as file, path.open("rb", 0) as plain:
        if cache.imported and name not in file:
            texts = _other_texts(file, name, count=len(cache.checksums[name.partition("/")[0]]))
            readable = isinstance(texts, ImpliedTexts) or not texts.faulty
        else:
            texts = file[name]
            readable = is_column_readable(plain.fileno(), texts, base=BLOCK, size=path.stat().st_size)
        if not readable:
            raise CacheDamagedError(path, [f"/{name} has texts without an end"], command=cache.about["command"])
        return list(texts.asstr()[:]) if isinstance(texts, h5py.Dataset) else texts


def _other_texts(file: h5py.File, name: str, *, count: int) -> ImpliedTexts | PackedTexts:
    """Texts of imported features that are no strings of HDF5's."""
    data, ends = (f"{name}{ending}" for ending in PACKED)
    if data not in file:
        return ImpliedTexts(count, numbered=name.endswith("/id"))
    return PackedTexts(file[data][:], file[ends][:])


def digest_captions(cache, rows: np.ndarray) -> np.ndarray:
    """(len(rows),) int64 of captions of a FeatureCache, as its text_digests has them."""
    cache = cache.members[0]
    if not cache.imported:
        return _digest_strings(cache)[rows]
    captions = cache.captions
    if isinstance(captions, ImpliedTexts):
        # Nobody knows which of them are the same.
        return np.arange(len(captions))[rows]
    alike = (" ".join(captions[row].lower().split()) for row in np.arange(len(captions))[rows].tolist())
    return np.fromiter(map(hash, alike), np.int64)


def _digest_strings(cache) -> np.ndarray:
    digests = np.empty(len(cache.caption_images), dtype=np.int64)
    with legible(cache.path), h5py.File(cache.path, "r", locking=False) as file:
        captions = file["text/caption"]
        for start in range(0, len(digests), _CAPTIONS_AT_ONCE):
            block = captions[start : start + _CAPTIONS_AT_ONCE].tolist()
            alike = (b" ".join(caption.lower().split()) for caption in block)
            digests[start : start + len(block)] = np.fromiter(map(hash, alike), np.int64, count=len(block))
    return digests


class TextColumns(contextlib.ExitStack):
    """Columns of texts of a FeatureCache, read from the disk by rows: for what goes through all of them once.

    Inside a `with` the file is open. Raises CacheDamagedError when the texts of a column have no end.
    """

    def __init__(self, cache, names: tuple[str, ...]):
        super().__init__()
        cache = cache.members[0]
        path = cache.path
        self.enter_context(legible(path))
        file = self.enter_context(h5py.File(path, "r", locking=False))
        self._columns = {}
        with path.open("rb", 0) as plain:
            for name in names:
                self._columns[name] = _opened(cache, file, name, descriptor=plain.fileno())

    def read(self, name: str, rows: np.ndarray) -> list[str]:
        """The texts of rows, in any order."""
        column = self._columns[name]
        places, inverse = np.unique(rows, return_inverse=True)
        texts: list[str] = []
        # What lies between rows is read too, at most this much of it at a time.
        for part in np.split(places, np.flatnonzero(np.diff(places // _CAPTIONS_AT_ONCE)) + 1) if len(places) else ():
            first, stop = int(part[0]), int(part[-1]) + 1
            span = column.block(first, stop) if isinstance(column, PackedTexts) else list(column[first:stop])
            texts += span if len(span) == len(part) else [span[row - first] for row in part.tolist()]
        return texts if len(places) == len(rows) and _ascends(inverse) else [texts[at] for at in inverse.tolist()]


def _ascends(places: np.ndarray) -> bool:
    return bool((np.diff(places) > 0).all())


def _opened(cache, file: h5py.File, name: str, *, descriptor: int):
    """A column that is read by slices, still on the disk."""
    if cache.imported and name not in file:
        count, (data, ends) = len(cache.checksums[name.partition("/")[0]]), (f"{name}{ending}" for ending in PACKED)
        if data not in file:
            return ImpliedTexts(count, numbered=name.endswith("/id"))
        texts = PackedTexts(file[data], file[ends])
        readable = not texts.faulty
    else:
        texts = file[name]
        readable = is_column_readable(descriptor, texts, base=BLOCK, size=cache.path.stat().st_size)
        texts = texts.asstr()
    if not readable:
        raise CacheDamagedError(cache.path, [f"/{name} has texts without an end"], command=cache.about["command"])
    return texts
