"""The last blocks of OpenAI's models: their weights by our names, and back by clip's."""

from collections.abc import Mapping

import numpy as np
import torch

from clipret.machine.last_blocks import FORMS, LastBlock

# Our part of a transformer's last block -> clip's parameter, in the block, or behind it.
_IN_BLOCK = {
    "norm_1": "ln_1",
    "inner_weight": "attn.in_proj_weight",
    "inner_bias": "attn.in_proj_bias",
    "outer": "attn.out_proj",
    "norm_2": "ln_2",
    "up": "mlp.c_fc",
    "down": "mlp.c_proj",
}
_BEHIND = {"image": "visual.ln_post", "text": "ln_final"}
_POOL = "visual.attnpool"


def last_blocks(model: torch.nn.Module) -> dict[str, LastBlock]:
    """image, text -> the last block of clip's own module; of a ResNet its attention pool."""
    state = model.state_dict()
    visual = model.visual
    if hasattr(visual, "proj"):
        positions = visual.positional_embedding.shape[0]
        image = _transformer(state, "image", heads=visual.transformer.resblocks[-1].attn.num_heads, positions=positions)
    else:
        pool = visual.attnpool
        joined = {
            f"inner_{what}": np.concatenate([_array(state[f"{_POOL}.{part}_proj.{what}"]) for part in "qkv"])
            for what in ("weight", "bias")
        }
        image = LastBlock("pool", pool.num_heads, pool.positional_embedding.shape[0], joined)
    heads = model.transformer.resblocks[-1].attn.num_heads
    return {"image": image, "text": _transformer(state, "text", heads=heads, positions=None)}


def clip_weights(
    side: str, form: str, parts: Mapping[str, torch.Tensor], *, model: torch.nn.Module
) -> dict[str, torch.Tensor]:
    """Parts of a last block -> the entries of the state dict of clip's own module that they are."""
    if form == "pool":
        return {
            f"{_POOL}.{part}_proj.{what}": values.contiguous()
            for what in ("weight", "bias")
            for part, values in zip("qkv", parts[f"inner_{what}"].chunk(3), strict=True)
        }
    names = _names(side, layers=_count_layers(model.state_dict(), side))
    return {name: parts[part].contiguous() for part, name in names.items()}


def _transformer(state: Mapping[str, torch.Tensor], side: str, *, heads: int, positions: int | None) -> LastBlock:
    names = _names(side, layers=_count_layers(state, side))
    weights = {part: _array(state[name]) for part, name in names.items()}
    return LastBlock("transformer", heads, positions, weights)


def _count_layers(state: Mapping[str, torch.Tensor], side: str) -> int:
    prefix = f"{_prefix(side)}."
    return 1 + max(int(name.removeprefix(prefix).split(".")[0]) for name in state if name.startswith(prefix))


def _names(side: str, *, layers: int) -> dict[str, str]:
    """Part -> clip's name."""
    block, names = f"{_prefix(side)}.{layers - 1}", {}
    for part in FORMS["transformer"]:
        stem, _, what = part.rpartition("_")
        if stem == "norm_3":
            names[part] = f"{_BEHIND[side]}.{what}"
        elif part in _IN_BLOCK:
            names[part] = f"{block}.{_IN_BLOCK[part]}"
        else:
            names[part] = f"{block}.{_IN_BLOCK[stem]}.{what}"
    return names


def _prefix(side: str) -> str:
    return "visual.transformer.resblocks" if side == "image" else "transformer.resblocks"


def _array(values: torch.Tensor) -> np.ndarray:
    return values.detach().float().cpu().numpy().copy()
