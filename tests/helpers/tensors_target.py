"""An export target in one file: clip's weights as safetensors. What the recipe in CONTRIBUTING asks for."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from clipret.exports.targets.openai_weights import folded_weights, refusal
from clipret.exports.targets.target import Source, Target, Way, unit

FILE = "clip.safetensors"


def write(source: Source, folder: Path) -> None:
    save_file(folded_weights(source), folder / FILE)


@torch.no_grad()
def _embedded(folder: Path, texts: list[str], images: list[Path]) -> tuple[np.ndarray, np.ndarray]:
    import clip
    from clip.model import build_model

    weights = load_file(folder / FILE)
    model = build_model(dict(weights)).float()
    # As build_model rounds what it is given.
    model.load_state_dict(weights)
    preprocess = clip.clip._transform(model.visual.input_resolution)
    pixels = [preprocess(Image.open(path)) for path in images]
    width = model.text_projection.shape[1]
    tokens = clip.tokenize(texts, context_length=model.context_length, truncate=True)
    return (
        unit(model.encode_text(tokens)) if texts else np.zeros((0, width), np.float32),
        unit(model.encode_image(torch.stack(pixels))) if images else np.zeros((0, width), np.float32),
    )


TARGET = Target(refusal=refusal, write=write, ways={"safetensors": Way(_embedded, code="import clip", needs="clip")})
