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

    request  JSON: module (of the target), way, folder, texts, images (lists of image files by name)
    result   arrays texts (T, E), and images/NAME (I, E)
    """
    warnings.simplefilter("ignore")
    asked = json.loads(request.read_text(encoding="utf-8"))
    way = importlib.import_module(asked["module"]).TARGET.ways[asked["way"]]
    arrays = {}
    for name, files in asked["images"].items():
        texts = asked["texts"] if name == "cropped" else []
        embedded, arrays[f"images/{name}"] = way.embed(Path(asked["folder"]), texts, [Path(file) for file in files])
        if name == "cropped":
            arrays["texts"] = embedded
    np.savez(result, **arrays)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
