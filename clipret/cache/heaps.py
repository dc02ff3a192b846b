"""Checks that HDF5 can read the global heaps of a file, which hold texts of variable length, without looping for ever.

A heap is a sequence of objects. After an object of zero bytes, HDF5 (2.0 and before) looks for the next one at the same
offset, for ever. A damaged file does not get this far, as checksums are compared first; one with forged checksums does.
Source: HDF5 file format specification, III.E, global heap.
"""

import array
import sys

import h5py
import numpy as np

from clipret.cache.raw import read_at

_MARK = b"GCOL\x01\x00\x00\x00"
_HEADER = 16
# How a column refers to a text: its length in bytes, the offset of its heap, and the index of its object there.
_REFERENCE = np.dtype([("bytes", "<u4"), ("heap", "<u8"), ("index", "<u4")])
_ROWS_AT_ONCE = 1 << 20


def is_column_readable(descriptor: int, dataset: h5py.Dataset, *, base: int, size: int) -> bool:
    """Whether HDF5 can read all heaps that hold the texts of a column.

    descriptor  the file, open for reading
    base        the byte that HDF5 offsets count from
    size        bytes of the file
    """
    stored = dataset.id.get_storage_size()
    if stored != (len(dataset) * _REFERENCE.itemsize if stored else 0):
        return False
    places: set[int] = set()
    for first in range(0, stored // _REFERENCE.itemsize, _ROWS_AT_ONCE):
        references = np.empty(min(_ROWS_AT_ONCE, len(dataset) - first), _REFERENCE)
        offset = dataset.id.get_offset() + first * _REFERENCE.itemsize
        read_at(descriptor, memoryview(references.view(np.uint8)), offset=offset)
        heaps = references["heap"][references["bytes"] > 0]
        # Consecutive texts mostly share a heap.
        places.update(heaps[np.diff(heaps, prepend=~heaps[:1]) != 0].tolist())
    return all(_is_readable(descriptor, base + place, size=size) for place in places)


def are_heaps_readable(descriptor: int, start: int, stop: int) -> bool:
    """Whether HDF5 can read all heaps between two offsets of a file, such as those of attributes."""
    data = bytearray(stop - start)
    read_at(descriptor, memoryview(data), offset=start)
    at = data.find(_MARK)
    while at >= 0:
        if not _is_readable(descriptor, start + at, size=stop):
            return False
        at = data.find(_MARK, at + 1)
    return True


def _is_readable(descriptor: int, place: int, *, size: int) -> bool:
    """Whether a heap starts at this offset, with objects that are not empty and end within it."""
    header = bytearray(_HEADER)
    if place + _HEADER > size:
        return False
    read_at(descriptor, memoryview(header), offset=place)
    length = int.from_bytes(header[8:], "little")
    if not header.startswith(_MARK) or length < _HEADER or length % 8 or place + length > size:
        return False
    heap = bytearray(length)
    read_at(descriptor, memoryview(heap), offset=place)
    words = array.array("Q", bytes(heap))
    if sys.byteorder == "big":
        words.byteswap()
    at, end = _HEADER // 8, length // 8
    # A remainder too short for an object's header is padding.
    while at + 2 <= end:
        number, taken = words[at] & 0xFFFF, words[at + 1]
        if number:
            at += 2 + (taken + 7) // 8
        elif taken and taken % 8 == 0:
            # The size of the free space includes these two words.
            at += taken // 8
        else:
            return False
    return at <= end
