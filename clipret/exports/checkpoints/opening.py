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

    request  JSON: module (of the target), way, folder, texts and images (lists of captions and of image files, prepared
             and original), features (None, or a file of features by side, which are embedded instead)
    result   arrays text/prepared (T, E), image/prepared (I, E), and the same of the original ones
    """
    warnings.simplefilter("ignore")
    asked = json.loads(request.read_text(encoding="utf-8"))
    way = importlib.import_module(asked["module"]).TARGET.ways[asked["way"]]
    folder = Path(asked["folder"])
    if asked["features"]:
        with np.load(asked["features"], allow_pickle=False) as features:
            texts, images = way.embed(folder, features["text"], features["image"])
        np.savez(result, **{"text/prepared": texts, "image/prepared": images})
        return
    arrays = {}
    for name, embed in (("prepared", way.cropped or way.embed), ("original", way.embed)):
        paths = [Path(file) for file in asked["images"][name]]
        arrays[f"text/{name}"], arrays[f"image/{name}"] = embed(folder, asked["texts"][name], paths)
    np.savez(result, **arrays)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
