"""Caches with valid checksums whose heaps would make HDF5 loop for ever."""

import re
import struct

import h5py
import pytest

from clipret import FeatureCache
from clipret.cache import open_writer
from clipret.cache.heaps import are_heaps_readable, is_column_readable
from clipret.cache.seal import BLOCK, write_seal
from clipret.errors import CacheDamagedError, CacheError
from tests.helpers.caches import MADE, fill


@pytest.fixture
def whole(tmp_path):
    path = tmp_path / "made.h5"
    with open_writer(path, MADE) as writer:
        fill(writer)
    return path


def heaps_of(data):
    return [match.start() for match in re.finditer(b"GCOL\x01", data)]


def second_object(data, heap):
    """The offset of the second object of a heap, after the header and the first object."""
    (size,) = struct.unpack_from("<Q", data, heap + 24)
    return heap + 32 + (size + 7) // 8 * 8


def read_all(path):
    cache = FeatureCache(path)
    return [cache.image_ids, cache.image_files, cache.caption_ids, cache.captions]


def readable(path):
    """Whether all texts of the file are readable."""
    size = path.stat().st_size
    with h5py.File(path) as file, path.open("rb") as plain:
        names = [
            f"{side}/{name}"
            for side, names in (("image", ("id", "file")), ("text", ("id", "caption")))
            for name in names
        ]
        columns = [is_column_readable(plain.fileno(), file[name], base=BLOCK, size=size) for name in names]
        return all(columns) and are_heaps_readable(plain.fileno(), BLOCK, size)


def test_a_sound_cache_is_readable(whole):
    assert readable(whole)
    assert FeatureCache(whole).captions == list(MADE.captions)


@pytest.mark.parametrize(
    "forge",
    [
        lambda data, heap: struct.pack_into("<HHIQ", data, second_object(data, heap), 0, 0, 0, 0),
        lambda data, heap: struct.pack_into("<Q", data, second_object(data, heap) + 8, 1 << 40),
        lambda data, heap: struct.pack_into("<Q", data, heap + 8, 1 << 40),
        lambda data, heap: struct.pack_into("<Q", data, heap + 8, 0),
        lambda data, heap: struct.pack_into("<4s", data, heap, b"NONE"),
    ],
    ids=["no bytes", "too many bytes", "a heap beyond the file", "a heap of no bytes", "no heap"],
)
def test_no_heap_is_read_that_hdf5_would_not_come_back_from(whole, forge):
    written = whole.read_bytes()
    heaps = heaps_of(written)
    assert len(heaps) >= 2
    for heap in heaps:
        data = bytearray(written)
        forge(data, heap)
        whole.write_bytes(data)
        write_seal(whole, command="clipret extract --dataset made")
        with pytest.raises(CacheError, match=r"texts without an end|cannot be read as HDF5"):
            read_all(whole)


def test_a_reference_out_of_the_file_is_not_followed(whole):
    with h5py.File(whole) as file:
        at = file["text/caption"].id.get_offset()
    data = bytearray(whole.read_bytes())
    struct.pack_into("<Q", data, at + 4, 1 << 60)
    whole.write_bytes(data)
    write_seal(whole, command="clipret extract --dataset made")
    with pytest.raises(CacheDamagedError, match="/text/caption has texts without an end"):
        _ = FeatureCache(whole).captions
