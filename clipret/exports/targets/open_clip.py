"""A folder of open_clip: config, weights, and the tokenizer of models that do not have clip's."""

import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file

from clipret.backbones.loading import quiet
from clipret.backbones.openai import OpenAIClip
from clipret.exports.targets import library_models
from clipret.exports.targets.hf_files import copy_tokenizer
from clipret.exports.targets.openai_weights import folded_weights, weights_refusal
from clipret.exports.targets.preprocessing import preprocessing_of
from clipret.exports.targets.target import Source, Target, Way, unit
from clipret.runs import write_json

CONFIG, WEIGHTS = "open_clip_config.json", "open_clip_model.safetensors"
_FAMILY = "open_clip"


def refusal(source: Source) -> str | None:
    """Why open_clip has no place for the head; None: it has."""
    if not isinstance(source.backbone, OpenAIClip):
        return library_models.refusal(source, family=_FAMILY, rebuilt=_rebuilt)
    reason = weights_refusal(source)
    if reason is None and preprocessing_of(source.backbone) is None:
        return f"open_clip has no words for how images are prepared here ({source.backbone.preprocessing})"
    return reason


def write(source: Source, folder: Path) -> None:
    """Config and weights, in float32; tokenizer files where the config names one of Hugging Face's."""
    if isinstance(source.backbone, OpenAIClip):
        weights = folded_weights(source)
        model, preprocess = _openai_config(source.backbone, weights)
        if source.backbone.own_tokenizer is not None:
            copy_tokenizer(source.backbone, folder)
    else:
        with library_models.whole_model(source) as (_, weights):
            model, preprocess = _config(source), dict(source.backbone.origin.preprocess)
        if "hf_tokenizer_name" in model["text_cfg"]:
            # Of open_clip's own object: not every model has a folder.
            with quiet():
                source.backbone.text.tokenizer.tokenize.save_pretrained(folder)
    if source.bias is not None:
        # What makes open_clip's models have one.
        model["init_logit_bias"] = source.bias
        weights.setdefault("logit_bias", torch.tensor(source.bias))
    write_json(folder / CONFIG, {"model_cfg": model, "preprocess_cfg": preprocess})
    save_file(weights, folder / WEIGHTS)


def _openai_config(backbone: OpenAIClip, weights: dict[str, torch.Tensor]) -> tuple[dict[str, Any], dict[str, Any]]:
    """model_cfg and preprocess_cfg of a model of OpenAI's architecture."""
    model, visual = backbone.model, backbone.model.visual
    context, width = weights["positional_embedding"].shape
    vision = {"image_size": backbone.image_side, "patch_size": None}
    if "visual.proj" in weights:
        layers = visual.transformer.layers
        vision |= {"layers": layers, "width": visual.transformer.width, "patch_size": visual.conv1.kernel_size[0]}
    else:
        stages = [visual.layer1, visual.layer2, visual.layer3, visual.layer4]
        vision |= {"layers": [len(stage) for stage in stages], "width": visual.layer1[0].conv1.out_channels}
    text = {"context_length": context, "vocab_size": len(weights["token_embedding.weight"]), "width": width}
    # OpenAI's heads are 64 wide.
    text |= {"heads": width // 64, "layers": model.transformer.layers}
    if backbone.own_tokenizer is not None:
        # Any name: of a folder open_clip takes the tokenizer in it.
        text["hf_tokenizer_name"] = "."
    config = {"embed_dim": weights["text_projection"].shape[1], "quick_gelu": True}
    seen = preprocessing_of(backbone)
    preprocess = {"size": seen.side, "mode": "RGB", "mean": list(seen.mean), "std": list(seen.std)}
    preprocess |= {"interpolation": seen.interpolation, "resize_mode": seen.mode}
    return config | {"vision_cfg": vision, "text_cfg": text}, preprocess


def _config(source: Source) -> dict[str, Any]:
    """model_cfg of a model that is open_clip's own, with the width of the head."""
    return json.loads(json.dumps(source.backbone.origin.model)) | {"embed_dim": library_models.embedding_width(source)}


def _rebuilt(source: Source) -> torch.nn.Module:
    import open_clip

    with tempfile.TemporaryDirectory(prefix="clipret-export-") as folder:
        content = {"model_cfg": _config(source), "preprocess_cfg": dict(source.backbone.origin.preprocess)}
        write_json(Path(folder) / CONFIG, content)
        with quiet():
            return open_clip.create_model(
                f"local-dir:{folder}", load_weights=False, pretrained_text=False, device="meta"
            )


@torch.no_grad()
def _embedded(folder: Path, texts: list[str], images: list[Path]) -> tuple[np.ndarray, np.ndarray]:
    import open_clip

    model, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{folder}")
    tokenizer = open_clip.get_tokenizer(f"local-dir:{folder}")
    model.eval()
    # Models without a caption or an image: one of each says how wide the embeddings are.
    captions = model.encode_text(tokenizer(texts or [""]))
    size = model.visual.image_size
    pixels = [preprocess(Image.open(path)) for path in images] or [torch.zeros(3, *_both(size))]
    pictures = model.encode_image(torch.stack(pixels))
    return unit(captions)[: len(texts)], unit(pictures)[: len(images)]


def _both(size: int | tuple[int, int]) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else tuple(size)


_CODE = """\
import open_clip
import torch

model, _, preprocess = open_clip.create_model_and_transforms("local-dir:{folder}")
tokenizer = open_clip.get_tokenizer("local-dir:{folder}")
model.eval()
with torch.no_grad():
    images = model.encode_image(torch.stack([preprocess(picture) for picture in pictures]))
    texts = model.encode_text(tokenizer(captions))"""

TARGET = Target(
    refusal=refusal,
    write=write,
    ways={
        "open_clip": Way(
            _embedded,
            code=_CODE,
            needs="open_clip",
            remark="open_clip drops transparency: put such images on white first",
        )
    },
    library="open_clip",
)
