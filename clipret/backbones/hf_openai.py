"""transformers' CLIPModel with OpenAI's architecture -> the weights by clip's names."""

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
    weights["visual.proj"] = theirs["visual_projection.weight"].T.contiguous()
    weights["text_projection"] = theirs["text_projection.weight"].T.contiguous()
    for ours, tower in (("visual.transformer", model.vision_model), ("transformer", model.text_model)):
        for number, layer in enumerate(tower.encoder.layers):
            weights |= _block(f"{ours}.resblocks.{number}", layer.state_dict())
    return weights


def _block(prefix: str, layer: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    weights = {}
    for kind in ("weight", "bias"):
        weights |= {f"{prefix}.{ours}.{kind}": layer[f"{theirs}.{kind}"] for ours, theirs in _BLOCK.items()}
        # clip has the three as one matrix.
        parts = [layer[f"self_attn.{part}_proj.{kind}"] for part in "qkv"]
        weights[f"{prefix}.attn.in_proj_{kind}"] = torch.cat(parts)
    return weights
