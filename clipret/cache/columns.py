"""Reading the texts of a cache: ids, files, captions."""

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
