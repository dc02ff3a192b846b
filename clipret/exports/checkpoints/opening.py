"""Run in a fresh process: open an exported folder by the code of its library, and embed.

python -m clipret.exports.checkpoints.opening REQUEST.json RESULT.npz
"""

import importlib
import json
import sys
import warnings
from pathlib import Path

import numpy as np


def main(request: Path, result: Path) -> None:
    """Write the embeddings of a request's captions and image files, as verification.ask asks for them.

    request  JSON: module (of the target), way, folder, texts, images (lists of image files by name), features (None, or
             a file of features by side, which are embedded instead)
    result   arrays texts (T, E), and images/NAME (I, E)
    """
    warnings.simplefilter("ignore")
    asked = json.loads(request.read_text(encoding="utf-8"))
    way = importlib.import_module(asked["module"]).TARGET.ways[asked["way"]]
    arrays, folder = {}, Path(asked["folder"])
    if asked["features"]:
        with np.load(asked["features"], allow_pickle=False) as features:
            arrays["texts"], arrays["images/cropped"] = way.embed(folder, features["text"], features["image"])
    for name, files in asked["images"].items():
        embed, paths = way.embed, [Path(file) for file in files]
        if name == "cropped":
            arrays["texts"], arrays["images/cropped"] = (way.cropped or embed)(folder, asked["texts"], paths)
        else:
            _, arrays[f"images/{name}"] = embed(folder, [], paths)
    np.savez(result, **arrays)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
