"""A trained head of clipret in numpy: read_head("head.safetensors")(features, "image") -> embeddings of norm 1."""

import json

import numpy as np


def read_head(path):
    with open(path, "rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        data = file.read()
    about, types = header.pop("__metadata__"), {"F32": "<f4", "F16": "<f2", "F64": "<f8", "U64": "<u8"}
    tensors = {}
    for name, entry in header.items():
        start, end = entry["data_offsets"]
        tensors[name] = np.frombuffer(data[start:end], types[entry["dtype"]]).reshape(entry["shape"])

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
