"""Two graphs for onnxruntime, the head and the norm inside, with the preprocessing described beside them."""

import importlib.util
import inspect
from pathlib import Path

import numpy as np
from PIL import Image

from clipret.exports.targets import onnx_reader, preprocessing, tokenizer_files
from clipret.exports.targets.onnx_graphs import INPUTS, OUTPUTS, fixed_length, write_graph
from clipret.exports.targets.target import Source, Target, Way
from clipret.runs import write_json

FILE = "preprocessing.json"
READER = "reader.py"
FORMAT = 1


def refusal(source: Source) -> str | None:
    """Why there are no such graphs with files that describe the rest; None: there are."""
    encoder, backbone = source.encoder, source.backbone
    images = preprocessing.describe_images(encoder)
    if images is None or not preprocessing.is_described(images, crop=encoder.crop, by=onnx_reader.crop):
        return f"{FILE} has no words for the preprocessing of {backbone.name} ({backbone.preprocessing})"
    if importlib.util.find_spec("tokenizers") is None:
        # Nothing is written without it; asked is only whether this target would do.
        return None
    tokenizer, about = tokenizer_files.describe_texts(backbone) or (None, {})
    if tokenizer is None or not tokenizer_files.is_described(
        backbone, by=lambda texts: onnx_reader.token_ids(texts, tokenizer, about)
    ):
        return f"{tokenizer_files.TOKENIZER} cannot hold the tokenizer of {backbone.name}"
    return None


def write(source: Source, folder: Path) -> None:
    """image.onnx, text.onnx, preprocessing.json, reader.py and the tokenizer's files."""
    for side in ("image", "text"):
        write_graph(source, side, path=folder / f"{side}.onnx")
    tokenizer, texts = tokenizer_files.describe_texts(source.backbone)
    tokenizer_files.write_texts(source.backbone, folder, tokenizer=tokenizer)
    (folder / READER).write_text(inspect.getsource(onnx_reader), encoding="utf-8")
    side, length = source.backbone.image_side, fixed_length(source) or "L"
    content = {
        "format": FORMAT,
        "image": {
            "graph": {"file": "image.onnx", "input": [INPUTS["image"], f"B x 3 x {side} x {side} float32"]},
            **preprocessing.describe_images(source.encoder),
        },
        "text": {
            "graph": {"file": "text.onnx", "input": [INPUTS["text"], f"B x {length} int64"]},
            **texts,
            "prompt": source.encoder.prompt,
            "caption_clean": source.encoder.cleaning,
        },
    }
    for name in INPUTS:
        content[name]["graph"]["output"] = [OUTPUTS[name], "B x E float32, rows of norm 1"]
    write_json(folder / FILE, content)


def _embedded(folder: Path, texts: list[str], images: list[Path]) -> tuple[np.ndarray, np.ndarray]:
    reader = _reader(folder)
    return reader.embed_prompted(texts), reader.embed_images([Image.open(path) for path in images])


def _cropped(folder: Path, texts: list[str], images: list[Path]) -> tuple[np.ndarray, np.ndarray]:
    reader = _reader(folder)
    return reader.embed_prompted(texts), reader.embed_cropped([Image.open(path) for path in images])


def _reader(folder: Path):
    """By the folder's own reader.py, as its users have it."""
    spec = importlib.util.spec_from_file_location("reader", folder / READER)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.Reader(folder)


TARGET = Target(
    refusal=refusal,
    write=write,
    ways={
        "onnxruntime": Way(
            _embedded,
            cropped=_cropped,
            code='import sys\n\nsys.path.insert(0, "{folder}")\nfrom reader import Reader\n\n'
            'model = Reader("{folder}")\nimages, texts = model.embed_images(pictures), model.embed_prompted(captions)',
            needs="onnxruntime",
        )
    },
    library="onnx",
)
