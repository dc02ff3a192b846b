"""OUT.parquet: one table of both sides, a row an embedding, for LanceDB, DuckDB, pgvector and Qdrant's loaders.

Parquet's directory is at its end, and pyarrow cannot go on with half a file, so an interrupted one starts again.
"""

import io
from collections.abc import Mapping
from contextlib import suppress

import numpy as np

from clipret.exports.embeddings.outputs import Outputs
from clipret.exports.embeddings.rows import Span
from clipret.exports.embeddings.writing import Writer

_TEXTS = ("side", "id", "file", "caption", "image", "split")
# In memory until it is written; loaders read as much at a time.
ROWS_IN_GROUP = 8192
_LEAF = "embedding.list.element"


class ParquetWriter(Writer):
    """Row groups of several blocks: the texts compressed, the embeddings as they are."""

    resumable, texts = False, False
    _sink = None

    def start(self, outputs: Outputs) -> None:
        """As of a Writer."""
        import pyarrow as pa
        from pyarrow import parquet

        embedding = pa.list_(pa.float16() if self.shape.dtype == "float16" else pa.float32(), self.shape.width)
        fields = [*(pa.field(name, pa.string()) for name in _TEXTS), pa.field("embedding", embedding, nullable=False)]
        self._schema = pa.schema(fields, metadata=dict(sorted(self.metadata.items())))
        self._sink, self._waiting = _Sink(outputs, self.out), []
        self._table = parquet.ParquetWriter(
            self._sink,
            self._schema,
            compression={**dict.fromkeys(_TEXTS, "zstd"), _LEAF: "none"},
            use_dictionary=["side", "split"],
            write_statistics=["side", "split", "id", "image"],
        )

    def write(self, outputs: Outputs, span: Span, *, embeddings: np.ndarray, texts: Mapping[str, list[str]]) -> None:
        """As of a Writer."""
        import pyarrow as pa

        columns = {"side": [span.side] * len(embeddings), "caption": [""] * len(embeddings), **texts}
        arrays = [pa.array(map(_utf8, columns[name]), pa.string()) for name in _TEXTS]
        flat = pa.array(embeddings.reshape(-1))
        arrays.append(pa.FixedSizeListArray.from_arrays(flat, self.shape.width))
        self._waiting.append(pa.RecordBatch.from_arrays(arrays, schema=self._schema))
        if sum(map(len, self._waiting)) >= ROWS_IN_GROUP:
            self._write_group()

    def end(self, outputs: Outputs) -> None:
        """As of a Writer."""
        if self._waiting:
            self._write_group()
        self._table.close()

    def _write_group(self) -> None:
        import pyarrow as pa

        # Of one piece, so that it is one row group.
        self._table.write_table(pa.Table.from_batches(self._waiting).combine_chunks(), row_group_size=1 << 20)
        self._waiting = []

    def abandon(self) -> None:
        """As of a Writer: pyarrow writes the directory whenever it lets go of a file."""
        if self._sink is not None:
            self._sink.abandoned = True
            with suppress(Exception):
                self._table.close()


def _utf8(text: str) -> bytes | None:
    """What is empty is null; lone surrogates, as in some paths, have no UTF-8."""
    return text.encode(errors="backslashreplace") or None


class _Sink(io.RawIOBase):
    """The growing file, as pyarrow wants it."""

    def __init__(self, outputs: Outputs, path):
        super().__init__()
        self._outputs, self._path, self.abandoned = outputs, path, False

    def writable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._outputs.size(self._path)

    def write(self, data) -> int:
        if not self.abandoned:
            self._outputs.append(self._path, data)
        return len(data)


WRITER = ParquetWriter
