"""A folder of transformers: config, weights, tokenizer and preprocessing, for from_pretrained."""

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file

from clipret.backbones.hf_files import LOCAL
from clipret.backbones.hf_kinds import CONFIG, WEIGHTS
from clipret.backbones.hf_openai import count_blocks, hf_weights
from clipret.backbones.loading import quiet
from clipret.backbones.openai import OpenAIClip
from clipret.backbones.protocol import Backbone
from clipret.exports.targets import library_models
from clipret.exports.targets.hf_files import copy_processor, copy_tokenizer, write_processor, write_tokenizer
from clipret.exports.targets.openai_weights import END, folded_weights, weights_refusal
from clipret.exports.targets.preprocessing import preprocessing_of
from clipret.exports.targets.target import Source, Target, Way, unit
from clipret.exports.targets.texts import cleaned
from clipret.runs import write_json

_FAMILY = "hf"


def refusal(source: Source) -> str | None:
    """Why transformers has no place for the head; None: it has."""
    if not isinstance(source.backbone, OpenAIClip):
        reason = library_models.refusal(source, family=_FAMILY, rebuilt=_rebuilt)
    else:
        reason = weights_refusal(source)
    if reason is None and not _keeps_cropped(source.backbone):
        return (
            f"{source.backbone.name} changes images that are cropped already ({source.backbone.preprocessing}), "
            f"so that what is written could not be compared"
        )
    if reason is not None or not isinstance(source.backbone, OpenAIClip):
        return reason
    if not hasattr(source.backbone.model.visual, "proj"):
        return f"transformers has no class for OpenAI's ResNets, and {source.backbone.name} is one"
    if preprocessing_of(source.backbone) is None and source.backbone.family != _FAMILY:
        return f"CLIPImageProcessor cannot prepare images as it is done here ({source.backbone.preprocessing})"
    return None


def _keeps_cropped(backbone: Backbone) -> bool:
    """Whether an image of the size that the model takes stays as it is."""
    side = backbone.image_side
    noise = np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8)
    return np.array_equal(np.asarray(backbone.crop(Image.fromarray(noise))), noise)


def write(source: Source, folder: Path) -> None:
    """Config and weights in float32, tokenizer and preprocessing; of the model's own folder, where it has one."""
    backbone = source.backbone
    if isinstance(backbone, OpenAIClip):
        weights = folded_weights(source)
        write_json(folder / CONFIG, _openai_config(backbone, weights))
        save_file(hf_weights(weights), folder / WEIGHTS[0], metadata={"format": "pt"})
    else:
        with library_models.whole_model(source) as (model, weights), quiet():
            model.save_pretrained(folder, state_dict=weights)
        content = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        _set_width(content, library_models.embedding_width(source))
        write_json(folder / CONFIG, content)
    if backbone.family == _FAMILY:
        copy_tokenizer(backbone, folder)
        copy_processor(backbone, folder)
    else:
        write_tokenizer(folder, context_length=backbone.context_length)
        write_processor(folder, preprocessing_of(backbone))


def _openai_config(backbone: OpenAIClip, weights: dict[str, torch.Tensor]) -> dict[str, Any]:
    """config.json of a CLIPModel with OpenAI's architecture."""
    (context, width), embedding = weights["positional_embedding"].shape, weights["text_projection"].shape[1]
    vision = len(weights["visual.class_embedding"])
    # transformers reads a text at its first eos_token_id.
    ids = {"bos_token_id": END - 1, "eos_token_id": END, "pad_token_id": END}
    if backbone.family == _FAMILY:
        tokens = backbone.own_tokenizer
        start = tokens.tokenize.tokenizer.bos_token_id
        ids = {"bos_token_id": start, "eos_token_id": tokens.end, "pad_token_id": tokens.padding}
    shared = {"projection_dim": embedding, "hidden_act": "quick_gelu", "layer_norm_eps": 1e-5, "attention_dropout": 0.0}
    return {
        "architectures": ["CLIPModel"],
        "model_type": "clip",
        "projection_dim": embedding,
        "logit_scale_init_value": 2.6592,
        "initializer_factor": 1.0,
        "torch_dtype": "float32",
        "text_config": {
            "model_type": "clip_text_model",
            "vocab_size": len(weights["token_embedding.weight"]),
            "max_position_embeddings": context,
            "num_hidden_layers": count_blocks(weights, "transformer"),
            **_widths(width),
            **shared,
            **ids,
        },
        "vision_config": {
            "model_type": "clip_vision_model",
            "image_size": backbone.image_side,
            "patch_size": weights["visual.conv1.weight"].shape[-1],
            "num_channels": 3,
            "num_hidden_layers": count_blocks(weights, "visual.transformer"),
            **_widths(vision),
            **shared,
        },
    }


def _widths(width: int) -> dict[str, int]:
    # OpenAI's heads are 64 wide.
    return {"hidden_size": width, "intermediate_size": 4 * width, "num_attention_heads": width // 64}


def _set_width(content: dict[str, Any], width: int) -> None:
    """Have a model's config say how wide its embeddings are."""
    for part in (content, content.get("text_config", {}), content.get("vision_config", {})):
        if "projection_dim" in part:
            part["projection_dim"] = width


def _rebuilt(source: Source) -> torch.nn.Module:
    model = source.backbone.image.model
    content = copy.deepcopy(model.config.to_dict())
    _set_width(content, library_models.embedding_width(source))
    with quiet(), torch.device("meta"):
        return type(model)(type(model.config).from_dict(content))


@torch.no_grad()
def _embedded(folder: Path, texts: list[str], images: list[Path]) -> tuple[np.ndarray, np.ndarray]:
    import transformers

    model = transformers.AutoModel.from_pretrained(folder, **LOCAL).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, **LOCAL)
    processor = transformers.AutoImageProcessor.from_pretrained(folder, **LOCAL)
    # One of each where there are none: it says how wide the embeddings are.
    tokens = tokenizer(texts or ["a"], padding="max_length", truncation=True, return_tensors="pt")
    pictures = [Image.open(path) for path in images] or [Image.new("RGB", (64, 64))]
    captions = _values(model.get_text_features(**tokens))
    pixels = processor(images=pictures, return_tensors="pt")
    return unit(captions)[: len(texts)], unit(_values(model.get_image_features(**pixels)))[: len(images)]


def _values(output: Any) -> torch.Tensor:
    """In transformers 5 the features are in an object, in 4 they are the output."""
    return output if isinstance(output, torch.Tensor) else output.pooler_output


def embedded_by_sentence_transformers(
    folder: Path, texts: list[str], images: list[Path]
) -> tuple[np.ndarray, np.ndarray]:
    """By SentenceTransformer, as of a Way."""
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(folder), device="cpu", local_files_only=True)
    pictures = [Image.open(path) for path in images] or [Image.new("RGB", (64, 64))]
    captions, seen = (model.encode(inputs, show_progress_bar=False) for inputs in (texts or ["a"], pictures))
    return unit(captions)[: len(texts)], unit(seen)[: len(images)]


_CODE = """\
import torch
from transformers import AutoImageProcessor, AutoModel, AutoTokenizer

model = AutoModel.from_pretrained("{folder}").eval()
tokenizer = AutoTokenizer.from_pretrained("{folder}")
processor = AutoImageProcessor.from_pretrained("{folder}")
tokens = tokenizer(captions, padding="max_length", truncation=True, return_tensors="pt")
with torch.no_grad():
    images = model.get_image_features(**processor(images=pictures, return_tensors="pt"))
    texts = model.get_text_features(**tokens)
# transformers 5 returns an object that has them.
images, texts = (getattr(output, "pooler_output", output) for output in (images, texts))"""
SENTENCES_CODE = """\
from sentence_transformers import SentenceTransformer

model = SentenceTransformer("{folder}")
images, texts = model.encode(pictures), model.encode(captions)"""
REMARK = (
    "transformers does not mend texts as clip does, puts what is transparent on white, and its crop is a pixel off "
    "where what it cuts off is odd"
)

TARGET = Target(
    refusal=refusal,
    write=write,
    ways={
        "transformers": Way(_embedded, code=_CODE, needs="transformers", clean=cleaned, remark=REMARK),
        "sentence-transformers": Way(
            embedded_by_sentence_transformers,
            code=SENTENCES_CODE,
            needs="sentence_transformers",
            clean=cleaned,
            remark="embeddings come without normalisation",
        ),
    },
    library="transformers",
)
