"""OUT.safetensors: tensors `images` and `texts` (n, E), with what they are of in its metadata."""

import json

from clipret.exports.embeddings.outputs import Outputs
from clipret.exports.embeddings.writing import PLURALS, Writer

_DTYPES = {"float16": "F16", "float32": "F32"}


class SafetensorsWriter(Writer):
    """Tensors one behind the other, after a header that says where."""

    def start(self, outputs: Outputs) -> None:
        """As of a Writer."""
        header, start = {"__metadata__": dict(sorted(self.metadata.items()))}, 0
        for side, count in self.shape.counts.items():
            stop = start + count * self.shape.row_bytes
            place = {"shape": [count, self.shape.width], "data_offsets": [start, stop]}
            header[PLURALS[side]] = {"dtype": _DTYPES[self.shape.dtype], **place}
            start = stop
        text = json.dumps(header, separators=(",", ":")).encode()
        # Tensors must start at a multiple of eight bytes.
        text += b" " * (-len(text) % 8)
        outputs.append(self.out, len(text).to_bytes(8, "little") + text)


WRITER = SafetensorsWriter
