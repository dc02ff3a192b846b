"""What every format of embeddings has, and the texts in JSON lines beside formats that have no place for texts."""

from collections.abc import Mapping
from json.encoder import encode_basestring
from pathlib import Path
from typing import ClassVar, NamedTuple

import numpy as np

from clipret.exports.embeddings.outputs import Outputs
from clipret.exports.embeddings.rows import Span

PLURALS = {"image": "images", "text": "texts"}
_COLUMNS = {"image": ("id", "file", "split"), "text": ("id", "image", "file", "caption", "split")}


class Shape(NamedTuple):
    """What is written.

    counts  image, text -> rows, of the sides that the cache has
    width   E
    dtype   float16 or float32
    """

    counts: dict[str, int]
    width: int
    dtype: str

    @property
    def row_bytes(self) -> int:
        """Bytes of one embedding."""
        return self.width * np.dtype(self.dtype).itemsize


class Writer:
    """The base of all formats.

    resumable  whether blocks that are on the disk are gone on from; otherwise it starts again, to the same bytes
    texts      whether the texts are in JSON lines beside it
    """

    resumable: ClassVar[bool] = True
    texts: ClassVar[bool] = True

    def __init__(self, out: Path, shape: Shape, *, metadata: Mapping[str, str]):
        self.out, self.shape, self.metadata = out, shape, metadata

    @property
    def paths(self) -> dict[str, Path]:
        """image, text -> the file of its embeddings."""
        return dict.fromkeys(self.shape.counts, self.out)

    @property
    def all_paths(self) -> tuple[Path, ...]:
        """Every file, those of the texts included."""
        beside = [self.beside(side, "jsonl") for side in self.shape.counts] if self.texts else []
        return tuple(dict.fromkeys([*self.paths.values(), *beside]))

    def beside(self, side: str, ending: str) -> Path:
        """A file of one side beside OUT, such as OUT.images.jsonl."""
        return self.out.with_name(f"{self.out.name}.{PLURALS[side]}.{ending}")

    def start(self, outputs: Outputs) -> None:
        """Write what is before the first block."""

    def write(self, outputs: Outputs, span: Span, *, embeddings: np.ndarray, texts: Mapping[str, list[str]]) -> None:
        """Write a block: embeddings (n, E) and text columns as rows.text_blocks has them."""
        outputs.append(self.paths[span.side], embeddings)
        outputs.append(self.beside(span.side, "jsonl"), json_lines(span.side, texts))

    def end(self, outputs: Outputs) -> None:
        """Write what is after the last block."""

    def abandon(self) -> None:
        """Let go of a file that is not finished."""


def json_lines(side: str, texts: Mapping[str, list[str]]) -> bytes:
    """A JSON object a line, a line an embedding."""
    names = _COLUMNS[side]
    form = "{" + ", ".join(f'"{name}": %s' for name in names) + "}\n"
    encoded = (map(encode_basestring, texts[name]) for name in names)
    # Lone surrogates, as in some paths, have no UTF-8.
    return "".join([form % values for values in zip(*encoded, strict=True)]).encode(errors="backslashreplace")
