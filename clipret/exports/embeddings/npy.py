"""NAME.npy: NAME.images.npy and NAME.texts.npy, arrays (n, E), for numpy.load, memory-mapped or not."""

import io
from pathlib import Path

import numpy as np

from clipret.exports.embeddings.outputs import Outputs
from clipret.exports.embeddings.writing import PLURALS, Writer


class NpyWriter(Writer):
    """Arrays of numpy, one a side."""

    @property
    def paths(self) -> dict[str, Path]:
        """As of a Writer."""
        return {side: self.beside(side, "npy") for side in self.shape.counts}

    def beside(self, side: str, ending: str) -> Path:
        """As of a Writer, without the ending of OUT."""
        return self.out.with_name(f"{self.out.stem}.{PLURALS[side]}.{ending}")

    def start(self, outputs: Outputs) -> None:
        """As of a Writer."""
        for side, path in self.paths.items():
            outputs.append(path, npy_header((self.shape.counts[side], self.shape.width), dtype=self.shape.dtype))


def npy_header(shape: tuple[int, ...], *, dtype: str) -> bytes:
    """What is before the values in a .npy file."""
    header = io.BytesIO()
    descr = np.lib.format.dtype_to_descr(np.dtype(dtype).newbyteorder("<"))
    np.lib.format.write_array_header_1_0(header, {"descr": descr, "fortran_order": False, "shape": shape})
    return header.getvalue()


WRITER = NpyWriter
