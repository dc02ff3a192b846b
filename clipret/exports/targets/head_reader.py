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
        own = {name.removeprefix(f"{side}_"): tensor for name, tensor in tensors.items()}
        rows, block = np.asarray(features, np.float32), 0
        while f"up_{block}" in own:
            normed = rows - rows.mean(axis=1, keepdims=True)
            normed /= np.sqrt((normed**2).mean(axis=1, keepdims=True) + 1e-5)
            rows = rows + silu(normed @ own[f"up_{block}"] + own[f"shift_{block}"]) @ own[f"down_{block}"]
            block += 1
        gated = silu(rows @ own["gate"]) * (rows @ own["value"]) @ own["out"] if "gate" in own else 0
        rows = unit(rows @ own["weight"] + own.get("bias", 0) + gated)
        if "down" in own:
            added = np.maximum(rows @ own["down"], 0) @ own["up"]
            added, ratio = np.maximum(added, 0) if about["relu"] == "true" else added, float(about["ratio"])
            rows = unit(ratio * added + (1 - ratio) * rows)
        return rows

    return embed


def silu(x):
    return x * np.exp(-np.logaddexp(0, -x))


def unit(rows):
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
