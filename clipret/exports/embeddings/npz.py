"""OUT.npz: arrays `images` and `texts` (n, E), for numpy.load.

A zip file of stored members, written here because zipfile cannot go on with half a member. Source: PKWARE's APPNOTE
6.3, 4.3.7 (local header), 4.3.12 (central directory), 4.3.14 to 4.3.16 (its end), 4.5.3 (sizes of 64 bits).
"""

import struct
import zlib
from collections.abc import Mapping

import numpy as np

from clipret.exports.embeddings.npy import npy_header
from clipret.exports.embeddings.outputs import Outputs
from clipret.exports.embeddings.rows import Span
from clipret.exports.embeddings.writing import PLURALS, Writer

# Version 4.5 has sizes of 64 bits; 1980-01-01, so that equal arrays are equal bytes.
_VERSION, _TIME, _DATE, _IN_EXTRA = 45, 0, 0x21, 0xFFFFFFFF
_CRC_OFFSET = 14


class NpzWriter(Writer):
    """Members one behind the other; a member's checksum is written into its header when its last block is there."""

    def write(self, outputs: Outputs, span: Span, *, embeddings: np.ndarray, texts: Mapping[str, list[str]]) -> None:
        """As of a Writer."""
        if span.start == 0:
            self._open(outputs, span.side)
        crc = f"{span.side}/crc"
        outputs.state[crc] = zlib.crc32(memoryview(embeddings).cast("B"), outputs.state[crc])
        super().write(outputs, span, embeddings=embeddings, texts=texts)

    def end(self, outputs: Outputs) -> None:
        """As of a Writer."""
        for side, count in self.shape.counts.items():
            if not count:
                self._open(outputs, side)
        directory, at = b"", outputs.size(self.out)
        for side in sorted(self.shape.counts, key=lambda side: outputs.state[f"{side}/start"]):
            start, crc = outputs.state[f"{side}/start"], outputs.state[f"{side}/crc"]
            outputs.patch(self.out, struct.pack("<I", crc), offset=start + _CRC_OFFSET)
            name, size = _name(side), self._size(side)
            extra = struct.pack("<HHQQQ", 1, 24, size, size, start)
            fields = (_VERSION, _VERSION, 0, 0, _TIME, _DATE, crc, _IN_EXTRA, _IN_EXTRA, len(name), len(extra))
            directory += struct.pack("<4s6H3I5H2I", b"PK\1\2", *fields, 0, 0, 0, 0, _IN_EXTRA) + name + extra
        count = len(self.shape.counts)
        end = struct.pack("<4sQ2H2I4Q", b"PK\6\6", 44, _VERSION, _VERSION, 0, 0, count, count, len(directory), at)
        end += struct.pack("<4sIQI", b"PK\6\7", 0, at + len(directory), 1)
        end += struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, count, count, len(directory), _IN_EXTRA, 0)
        outputs.append(self.out, directory + end)

    def _open(self, outputs: Outputs, side: str) -> None:
        name, size, header = _name(side), self._size(side), self._header(side)
        outputs.state |= {f"{side}/start": outputs.size(self.out), f"{side}/crc": zlib.crc32(header)}
        extra = struct.pack("<HHQQ", 1, 16, size, size)
        fields = (_VERSION, 0, 0, _TIME, _DATE, 0, _IN_EXTRA, _IN_EXTRA, len(name), len(extra))
        outputs.append(self.out, struct.pack("<4s5H3I2H", b"PK\3\4", *fields) + name + extra + header)

    def _header(self, side: str) -> bytes:
        return npy_header((self.shape.counts[side], self.shape.width), dtype=self.shape.dtype)

    def _size(self, side: str) -> int:
        return len(self._header(side)) + self.shape.counts[side] * self.shape.row_bytes


def _name(side: str) -> bytes:
    return f"{PLURALS[side]}.npy".encode()


WRITER = NpzWriter
