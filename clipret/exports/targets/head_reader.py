"""A trained head of clipret in numpy: read_head("head.safetensors")(features, "image") -> embeddings of norm 1."""

import json
from pathlib import Path

import numpy as np


def read_head(path):
    data = Path(path).read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:start])
    about, types = header.pop("__metadata__"), {"F32": "<f4", "F16": "<f2", "F64": "<f8", "U64": "<u8"}
    tensors = {}
    for name, entry in header.items():
        first, last = (start + offset for offset in entry["data_offsets"])
        tensors[name] = np.frombuffer(data[first:last], types[entry["dtype"]]).reshape(entry["shape"])

    def embed(features, side):
        rows = unit(features @ tensors[f"{side}_weight"] + tensors.get(f"{side}_bias", 0))
        if f"{side}_down" in tensors:
            added = np.maximum(rows @ tensors[f"{side}_down"], 0) @ tensors[f"{side}_up"]
            added, ratio = np.maximum(added, 0) if about["relu"] == "true" else added, float(about["ratio"])
            rows = unit(ratio * added + (1 - ratio) * rows)
        return rows

    return embed


def unit(rows):
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
