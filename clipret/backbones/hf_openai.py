"""The weights of OpenAI's architecture by clip's names, and by those of transformers' CLIPModel."""

from collections.abc import Mapping
from typing import Any

import torch

from clipret.backbones.tokenizing import LibraryTokenizer

# Ours -> theirs; of a block, the first is followed by its number.
_BLOCK = {
    "ln_1": "layer_norm1",
    "attn.out_proj": "self_attn.out_proj",
    "ln_2": "layer_norm2",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}
_VISION = {
    "visual.class_embedding": "vision_model.embeddings.class_embedding",
    "visual.positional_embedding": "vision_model.embeddings.position_embedding.weight",
    "visual.conv1.weight": "vision_model.embeddings.patch_embedding.weight",
    "visual.ln_pre.weight": "vision_model.pre_layrnorm.weight",
    "visual.ln_pre.bias": "vision_model.pre_layrnorm.bias",
    "visual.ln_post.weight": "vision_model.post_layernorm.weight",
    "visual.ln_post.bias": "vision_model.post_layernorm.bias",
}
_TEXT = {
    "token_embedding.weight": "text_model.embeddings.token_embedding.weight",
    "positional_embedding": "text_model.embeddings.position_embedding.weight",
    "ln_final.weight": "text_model.final_layer_norm.weight",
    "ln_final.bias": "text_model.final_layer_norm.bias",
    "logit_scale": "logit_scale",
}
# Matrices that theirs have transposed.
_PROJECTIONS = {"visual.proj": "visual_projection.weight", "text_projection": "text_projection.weight"}
_TOWERS = {"visual.transformer": "vision_model", "transformer": "text_model"}
_EPSILON = 1e-5


def is_openai(config: Any, *, tokens: LibraryTokenizer) -> bool:
    """Whether clip's own model would compute what a CLIPModel of this config does with the same weights."""
    vision, text = config.vision_config, config.text_config
    return (
        all(
            part.hidden_act == "quick_gelu"
            and part.num_attention_heads * 64 == part.hidden_size
            and part.intermediate_size == 4 * part.hidden_size
            and part.layer_norm_eps == _EPSILON
            for part in (vision, text)
        )
        and vision.num_channels == 3
        and vision.image_size % vision.patch_size == 0
        # clip reads a text at its highest id.
        and tokens.end == len(tokens.tokenize.tokenizer) - 1
    )


def clip_weights(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """The weights of a CLIPModel by clip's names."""
    theirs = model.state_dict()
    weights = {ours: theirs[name] for ours, name in (_VISION | _TEXT).items()}
    weights |= {ours: theirs[name].T.contiguous() for ours, name in _PROJECTIONS.items()}
    for ours, tower in _TOWERS.items():
        for number, layer in enumerate(getattr(model, tower).encoder.layers):
            weights |= _block(f"{ours}.resblocks.{number}", layer.state_dict())
    return weights


def hf_weights(weights: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The state dict of a CLIPModel, of a vision transformer's weights by clip's names: the inverse of clip_weights."""
    theirs = {name: weights[ours] for ours, name in (_VISION | _TEXT).items()}
    theirs |= {name: weights[ours].T.contiguous() for ours, name in _PROJECTIONS.items()}
    for ours, tower in _TOWERS.items():
        for number in range(count_blocks(weights, ours)):
            theirs |= _layer(f"{tower}.encoder.layers.{number}", weights=weights, block=f"{ours}.resblocks.{number}")
    return theirs


def count_blocks(weights: Mapping[str, torch.Tensor], tower: str) -> int:
    """The blocks of a transformer by clip's names, transformer or visual.transformer."""
    return sum(name.startswith(f"{tower}.resblocks.") and name.endswith(".ln_1.weight") for name in weights)


def _block(prefix: str, layer: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    weights = {}
    for kind in ("weight", "bias"):
        weights |= {f"{prefix}.{ours}.{kind}": layer[f"{theirs}.{kind}"] for ours, theirs in _BLOCK.items()}
        # clip has the three as one matrix.
        parts = [layer[f"self_attn.{part}_proj.{kind}"] for part in "qkv"]
        weights[f"{prefix}.attn.in_proj_{kind}"] = torch.cat(parts)
    return weights


def _layer(prefix: str, *, weights: Mapping[str, torch.Tensor], block: str) -> dict[str, torch.Tensor]:
    layer = {}
    for kind in ("weight", "bias"):
        layer |= {f"{prefix}.{theirs}.{kind}": weights[f"{block}.{ours}.{kind}"] for ours, theirs in _BLOCK.items()}
        parts = weights[f"{block}.attn.in_proj_{kind}"].chunk(3)
        layer |= {
            f"{prefix}.self_attn.{part}_proj.{kind}": values.clone() for part, values in zip("qkv", parts, strict=True)
        }
    return layer
