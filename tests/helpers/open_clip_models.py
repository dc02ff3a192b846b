"""Small models of open_clip's architectures with random weights, in folders as open_clip itself reads them."""

import json
import logging
from pathlib import Path

import open_clip
import torch
from safetensors.torch import save_file
from torch import nn

from tests.helpers.backbone_models import enlivened

_TEXT = {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 2, "layers": 2}
_VISION = {"image_size": 32, "layers": 2, "width": 64, "patch_size": 8, "head_width": 32}
_OPENAI_TEXT = {**_TEXT, "heads": 1}
_BIDIRECTIONAL = {"no_causal_mask": True, "context_length": 64}
# Architecture -> the model_cfg of its open_clip_config.json.
ARCHITECTURES = {
    "openai-vit": {
        "embed_dim": 48,
        "quick_gelu": True,
        "vision_cfg": {"image_size": 32, "layers": 2, "width": 128, "patch_size": 8},
        "text_cfg": _OPENAI_TEXT,
    },
    "openai-resnet": {
        "embed_dim": 48,
        "quick_gelu": True,
        "vision_cfg": {"image_size": 64, "layers": [1, 1, 1, 1], "width": 16, "patch_size": None},
        "text_cfg": _OPENAI_TEXT,
    },
    "vit": {"embed_dim": 48, "vision_cfg": _VISION, "text_cfg": _TEXT},
    "resnet": {
        "embed_dim": 48,
        "vision_cfg": {"image_size": 64, "layers": [1, 1, 1, 1], "width": 16, "head_width": 32},
        "text_cfg": _TEXT,
    },
    "siglip": {
        "embed_dim": 192,
        "custom_text": True,
        "init_logit_bias": -10,
        "vision_cfg": {
            "image_size": 224,
            "timm_model_name": "vit_tiny_patch16_224",
            "timm_pool": "map",
            "timm_proj": "none",
        },
        "text_cfg": {**_TEXT, **_BIDIRECTIONAL, "pool_type": "last", "proj_bias": True},
    },
    "eva02": {
        "embed_dim": 48,
        "custom_text": True,
        "vision_cfg": {
            "image_size": 224,
            "timm_model_name": "eva02_tiny_patch14_224",
            "timm_pool": "token",
            "timm_proj": None,
        },
        "text_cfg": _TEXT,
    },
    "convnext": {
        "embed_dim": 48,
        "vision_cfg": {
            "image_size": 64,
            "timm_model_name": "convnext_atto",
            "timm_pool": "",
            "timm_proj": "linear",
        },
        "text_cfg": _TEXT,
    },
    "convnext-mlp": {
        "embed_dim": 48,
        "vision_cfg": {"image_size": 64, "timm_model_name": "convnext_atto", "timm_pool": "", "timm_proj": "mlp"},
        "text_cfg": _TEXT,
    },
    "attention-pool": {
        "embed_dim": 48,
        "vision_cfg": {
            "image_size": 224,
            "timm_model_name": "resnet18",
            "timm_pool": "abs_attn",
            "timm_proj": None,
        },
        "text_cfg": _TEXT,
    },
    "mobileclip": {
        "embed_dim": 48,
        "custom_text": True,
        "vision_cfg": {"image_size": 64, "timm_model_name": "fastvit_t8", "timm_pool": "avg", "timm_proj": None},
        "text_cfg": {**_TEXT, "no_causal_mask": True},
    },
    "coca": {
        "embed_dim": 48,
        "custom_text": True,
        "vision_cfg": {**_VISION, "attentional_pool": True, "attn_pooler_heads": 2, "output_tokens": True},
        "text_cfg": {**_TEXT, "context_length": 76, "embed_cls": True, "output_tokens": True},
        "multimodal_cfg": {
            "context_length": 76,
            "vocab_size": 49408,
            "width": 64,
            "heads": 2,
            "layers": 1,
            "attn_pooler_heads": 2,
        },
    },
    "eos": {
        "embed_dim": 48,
        "custom_text": True,
        "vision_cfg": _VISION,
        "text_cfg": {**_TEXT, "pool_type": "eos", "eos_id": 49407},
    },
}
PREPROCESSING = {"mean": [0.5, 0.4, 0.3], "std": [0.5, 0.6, 0.7], "interpolation": "bicubic", "resize_mode": "squash"}


def write_open_clip(folder: Path, architecture: dict, *, preprocessing: dict = PREPROCESSING) -> Path:
    """The folder, with open_clip_config.json and open_clip_model.safetensors of a model with random weights."""
    folder.mkdir(parents=True, exist_ok=True)
    config = {"model_cfg": architecture, "preprocess_cfg": preprocessing}
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    model = random_model(folder)
    weights = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    save_file(weights, folder / "open_clip_model.safetensors")
    return folder


def random_model(folder: Path) -> nn.Module:
    """open_clip's model of a folder's config; features differ from image to image."""
    torch.manual_seed(0)
    logging.disable(logging.ERROR)
    try:
        model = open_clip.create_model(f"local-dir:{folder}", load_weights=False, pretrained_text=False)
    finally:
        logging.disable(logging.NOTSET)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "bias" in name or "norm" in name or "ln_" in name:
                parameter.add_(torch.randn_like(parameter) * 0.05)
    if hasattr(model.visual, "attnpool"):
        model.visual.input_resolution = model.visual.image_size
        enlivened(model)
    return model.eval()


def library_model(folder: Path) -> nn.Module:
    """The model as open_clip loads it, for reference."""
    logging.disable(logging.ERROR)
    try:
        return open_clip.create_model(f"local-dir:{folder}", pretrained_text=False).eval()
    finally:
        logging.disable(logging.NOTSET)
