"""A checkpoint of OpenAI's clip: a plain state dict, as torch.save writes it."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from clipret.exports.targets.openai_weights import folded_weights, refusal, remarks
from clipret.exports.targets.target import Source, Target, Way, unit

FILE = "clip.pt"


def write(source: Source, folder: Path) -> None:
    """clip.pt, of float32."""
    with (folder / FILE).open("wb") as file:
        torch.save(folded_weights(source), file)


def _loaded(folder: Path, texts: list[str], images: list[Path]) -> tuple[np.ndarray, np.ndarray]:
    from clipret.backbones.clip_package import import_clip

    clip = import_clip()
    return _embedded(clip, *clip.load(str(folder / FILE), device="cpu"), texts=texts, images=images)


def _whole(folder: Path, texts: list[str], images: list[Path]) -> tuple[np.ndarray, np.ndarray]:
    from clipret.backbones.clip_package import import_clip

    clip = import_clip()
    model, preprocess = clip.load(str(folder / FILE), device="cpu")
    model.load_state_dict(torch.load(folder / FILE, weights_only=True))
    return _embedded(clip, model, preprocess, texts=texts, images=images)


@torch.no_grad()
def _embedded(clip, model, preprocess, *, texts: list[str], images: list[Path]) -> tuple[np.ndarray, np.ndarray]:
    tokens = clip.tokenize(texts, context_length=model.context_length, truncate=True)
    pixels = [preprocess(Image.open(path)) for path in images]
    width = model.text_projection.shape[1]
    return (
        unit(model.encode_text(tokens)) if texts else np.zeros((0, width), np.float32),
        unit(model.encode_image(torch.stack(pixels))) if images else np.zeros((0, width), np.float32),
    )


_LOAD = 'model, preprocess = clip.load("{folder}/clip.pt", device="cpu")'
_EMBED = """
with torch.no_grad():
    images = model.encode_image(torch.stack([preprocess(picture) for picture in pictures]))
    texts = model.encode_text(clip.tokenize(captions, context_length=model.context_length, truncate=True))"""

TARGET = Target(
    refusal=refusal,
    write=write,
    remarks=remarks,
    ways={
        "clip.load": Way(
            _loaded,
            code=f"import clip\nimport torch\n\n{_LOAD}\n{_EMBED}",
            needs="clip",
            tolerance=1e-3,
            remark="clip.load rounds the weights of a state dict to float16, on the CPU too",
        ),
        "clip.load and load_state_dict": Way(
            _whole,
            code=f"import clip\nimport torch\n\n{_LOAD}\n"
            'model.load_state_dict(torch.load("{folder}/clip.pt", weights_only=True))\n' + _EMBED,
            needs="clip",
        ),
    },
)
