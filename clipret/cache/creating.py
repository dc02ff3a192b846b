"""Making a cache or a shard: all of its structure, before the first feature."""

import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from clipret.cache.access import new_file, require_room
from clipret.cache.attributes import SHARD_FORMAT
from clipret.cache.layout import DIGEST_BYTES, FORMAT, PACKED, PROBLEM_BYTES, SIDES, TEXT_COLUMNS, CacheContents
from clipret.cache.parts import Part, shard_path
from clipret.cache.raw import write_at
from clipret.cache.seal import BLOCK, Extent, write_seal
from clipret.cache.taps import STARTS, SUM, TOKEN_ARRAYS, packed_blocks
from clipret.cache.texts import ImpliedTexts, PackedTexts

# What HDF5 adds to a string: its reference, its header in the heap and the padding to eight bytes; and to an array.
_STRING_BYTES, _ARRAY_BYTES = 40, 1024
_FILE_BYTES = 16384 + BLOCK
_CHUNK = 4096
_VALUES_AT_ONCE = 1 << 22
# Shape and type of what stands beside a row's feature.
_NOTES = {
    "image": {
        "problem": ((), f"S{PROBLEM_BYTES}"),
        "sha256": ((2, DIGEST_BYTES), "uint8"),
        "single_colour": ((2,), "uint8"),
        SUM: ((), "uint32"),
    },
    "text": {"tokens": ((2,), "int16"), SUM: ((), "uint32")},
}


def create(path: Path, contents: CacheContents, *, part: Part | None = None) -> None:
    """Make an empty cache at `path`, or the shard of a part.

    Raises CacheError when there is not enough room for all of it, OSError when it cannot be written.
    """
    with new_file(path) as unfinished:
        require_room(path, needed=needed_bytes(contents, part=part))
        write_structure(unfinished, contents, part=part)


def write_structure(
    path: Path, contents: CacheContents, *, part: Part | None = None, shards: tuple[Path, list[Part]] | None = None
) -> dict[str, Extent]:
    """Write everything but features, notes, checksums and states, which are all zero.

    part    write only these rows' raw arrays: a shard
    shards  of a cache at this path, these parts' shards hold the features; the file refers to them

    Returns where the raw arrays are. Raises OSError when it cannot be written.
    """
    later: list[tuple[int, Any]] = []
    with _PatientFile(path) as sink, h5py.File(sink, "w", libver="earliest", userblock_size=BLOCK) as file:
        if part is None:
            _write_columns(file, contents, later=later)
        for name, (shape, dtype) in raw_arrays(contents, part=part).items():
            if shards is None or not name.endswith("/features"):
                # Tokens are many times the rest, and are not written twice.
                filled = not (contents.imported or name.endswith(TOKEN_ARRAYS))
                _preallocate(file, name, shape=shape, dtype=dtype, filled=filled)
        if shards is not None:
            for side in SIDES:
                _refer(file, f"{side}/features", contents=contents, shards=shards)
        file.attrs["format"] = FORMAT if part is None else SHARD_FORMAT
        file.attrs["fingerprint"] = contents.fingerprint
        file.attrs["inputs"] = json.dumps(contents.inputs, ensure_ascii=False)
        file.attrs["about"] = json.dumps(contents.about, ensure_ascii=False)
        if part is not None:
            file.attrs["rows"] = json.dumps({side: [part.rows[side].start, part.rows[side].stop] for side in SIDES})
    for offset, values in later:
        values.copy_to(path, offset=offset)
    return write_seal(path, command=contents.about.get("command"))


class _PatientFile(io.FileIO):
    """A new file for HDF5 to write, which is told of no failure: one in closing a file leaves it open for good.

    The first failure is raised when the block ends.
    """

    def __init__(self, path: Path):
        super().__init__(path, "w+")
        self._failure = None

    def write(self, data) -> int:
        self._try(lambda: write_at(self.fileno(), memoryview(data).cast("B"), offset=self.tell()))
        return self.seek(len(data), io.SEEK_CUR)

    def truncate(self, size=None) -> int:
        self._try(lambda: super(_PatientFile, self).truncate(size))
        return self.tell()

    def __exit__(self, *exception) -> None:
        super().__exit__(*exception)
        if self._failure is not None:
            raise self._failure

    def _try(self, step: Callable[[], object]) -> None:
        try:
            if self._failure is None:
                step()
        except OSError as error:
            self._failure = error


def needed_bytes(contents: CacheContents, *, part: Part | None = None, features: bool = True) -> int:
    """Bytes of the file that write_structure makes, at most.

    features  whether the features are in it
    """
    arrays = raw_arrays(contents, part=part)
    total = _FILE_BYTES + sum(
        _ARRAY_BYTES + int(np.prod(shape)) * np.dtype(dtype).itemsize
        for name, (shape, dtype) in arrays.items()
        if features or not name.endswith("/features")
    )
    if part is None:
        total += sum(_text_bytes(getattr(contents, name)) for name in TEXT_COLUMNS)
        total += len(contents.image_ids) + 8 * len(contents.captions)
        arrays = (*contents.projections.values(), *packed_blocks(contents.blocks).values())
        total += sum(_ARRAY_BYTES + 4 * np.size(values) for values in arrays)
        total += sum(_ARRAY_BYTES + tap.starts.nbytes for tap in contents.taps.values() if tap.starts is not None)
    return total + 4 * len(json.dumps([contents.inputs, contents.about]))


def _text_bytes(texts: Sequence[str]) -> int:
    if isinstance(texts, ImpliedTexts):
        return 0
    if isinstance(texts, PackedTexts):
        return 2 * _ARRAY_BYTES + len(texts.data) + 8 * len(texts.ends)
    return _ARRAY_BYTES + sum(_STRING_BYTES + len(text.encode()) for text in texts)


def raw_arrays(contents: CacheContents, *, part: Part | None = None) -> dict[str, tuple[tuple[int, ...], str]]:
    """Name -> shape and type of the arrays that are written row by row; of a part, of its rows only."""
    counts = contents.counts if part is None else {side: len(rows) for side, rows in part.rows.items()}
    arrays = {}
    for side, count in counts.items():
        if side in contents.taps:
            arrays |= contents.taps[side].arrays(side, count=count)
        arrays[f"{side}/features"] = (count, contents.width(side)), contents.dtype
        arrays[f"{side}/state"] = (count,), "uint8"
        for name in contents.notes[side]:
            shape, kind = _NOTES[side][name]
            arrays[f"{side}/{name}"] = (count, *shape), kind
        arrays[f"{side}/checksum"] = (count,), "uint32"
        arrays[f"{side}/micro_batch"] = (2,), "int32"
    return arrays


def _write_columns(file: h5py.File, contents: CacheContents, *, later: list[tuple[int, Any]]) -> None:
    """later  gets byte of the file and array of those that the system copies from another file, which is faster"""
    for attribute, name in TEXT_COLUMNS.items():
        texts = getattr(contents, attribute)
        if isinstance(texts, PackedTexts):
            for ending, values in zip(PACKED, (texts.data, texts.ends), strict=True):
                _preallocate(file, f"{name}{ending}", shape=values.shape, dtype=values.dtype, filled=False)
                if len(values) and hasattr(values, "copy_to"):
                    later.append((file[f"{name}{ending}"].id.get_offset(), values))
                else:
                    _copy(file[f"{name}{ending}"], values)
        elif not isinstance(texts, ImpliedTexts):
            column = file.create_dataset(name, shape=(len(texts),), dtype=h5py.string_dtype())
            # In pieces: h5py makes copies of its input.
            for start in range(0, len(texts), _CHUNK):
                column[start : start + _CHUNK] = texts[start : start + _CHUNK]
    file.create_dataset("image/split", data=contents.image_splits, dtype=np.uint8)
    file.create_dataset("text/image", data=contents.caption_images, dtype=np.int64)
    for name, values in (*contents.projections.items(), *packed_blocks(contents.blocks).items()):
        file.create_dataset(f"projection/{name}", data=np.asarray(values, dtype=np.float32))
    for tap in contents.taps.values():
        if tap.starts is not None:
            file.create_dataset(STARTS, data=tap.starts, dtype=np.int64)


def _copy(dataset: h5py.Dataset, values: np.ndarray) -> None:
    """Fill a data set with values that may not fit in memory."""
    for start in range(0, len(values), _VALUES_AT_ONCE):
        dataset[start : start + _VALUES_AT_ONCE] = values[start : start + _VALUES_AT_ONCE]


def _preallocate(file: h5py.File, name: str, *, shape: tuple, dtype, filled: bool) -> None:
    """An all-zero contiguous array whose place in the file is fixed now: HDF5's default waits for the first write.

    filled  write the zeros, which takes as long as writing the values; else they are what a file has where nothing was
            written yet
    """
    creation = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    creation.set_layout(h5py.h5d.CONTIGUOUS)
    creation.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    creation.set_fill_time(h5py.h5d.FILL_TIME_ALLOC if filled else h5py.h5d.FILL_TIME_NEVER)
    group = file.require_group(name.rpartition("/")[0])
    kind = h5py.h5t.py_create(np.dtype(dtype))
    h5py.h5d.create(group.id, name.rpartition("/")[2].encode(), kind, h5py.h5s.create_simple(shape), creation)


def _refer(file: h5py.File, name: str, *, contents: CacheContents, shards: tuple[Path, list[Part]]) -> None:
    """An array whose rows HDF5 looks for in the shards, beside this file wherever that is."""
    path, parts = shards
    side = name.partition("/")[0]
    shape, dtype = raw_arrays(contents)[name]
    layout = h5py.VirtualLayout(shape, dtype=dtype)
    for part in parts:
        rows = part.rows[side]
        if len(rows):
            # HDF5 takes a percent sign for the start of a pattern unless it is doubled.
            source = shard_path(path, part).relative_to(path.parent).as_posix().replace("%", "%%")
            layout[rows.start : rows.stop] = h5py.VirtualSource(
                source, name=name, shape=(len(rows), shape[1]), dtype=dtype
            )
    # Without their shard, rows are not taken for zeros.
    file.create_virtual_dataset(name, layout, fillvalue=np.nan)
