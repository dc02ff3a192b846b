"""The encoder's last block made trainable, with the projection behind it. It reads tokens, not features.

Only the query of one token leaves the block: the class token's, that of a caption's end, or of a ResNet the mean's. So
keys and values are never computed: q (K x) = (q K) x, and a sum of V x is V times the sum of x. The LayerNorm of all
tokens is the same for every step but for its weights, which are multiplied behind those sums. So the gradient meets
tokens in two products a head, and no gradient of tokens is computed.

Shape suffixes: B rows, L tokens, W width of tokens, H heads of attention, d = W / H, D features, E embedding.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from clipret.errors import HeadError
from clipret.heads.base import (
    FEATURES,
    PROJECTION_NAMES,
    SIDES,
    TOKENS,
    Head,
    Shapes,
    Start,
    Tensors,
    clip_tensors,
    sides_in,
    sides_word,
    uniform,
)
from clipret.heads.linear import LinearHead
from clipret.machine.last_blocks import FORMS, HEADS, PARTS, shapes_of
from clipret.machine.token_rows import TokenRows

_EPSILON = 1e-5
_QUICK_GELU = 1.702
# Matrices of the block to which LoRA adds a product of two narrow ones, (outputs, r) times (r, inputs).
_MATRICES = ("inner_weight", "outer_weight", "up_weight", "down_weight")
_NORMS = tuple(part for part in PARTS if part.startswith("norm"))


class BlockHead(LinearHead):
    """The last block and the projection of either side or both: normalize(block(tokens) W + b).

    The block's tensors are SIDE_block_PART, the parts those of machine.last_blocks; SIDE_block_heads is a number. With
    LoRA (Hu et al. 2022) the block's own weights stay, and every matrix has SIDE_block_MATRIX_in and _out added to it,
    of which _out is 0 at first. A side without a block is a projection of features, as of a linear head.

    Started from a cache's last block it computes the encoder's own embeddings, to rounding.
    """

    kind = "block"
    learns_from = TOKENS
    names = (
        *PROJECTION_NAMES,
        *(f"{side}_block_{part}" for side in SIDES for part in (*PARTS, HEADS)),
        *(f"{side}_block_{part}_{end}" for side in SIDES for part in _MATRICES for end in ("in", "out")),
    )

    @classmethod
    def start(cls, clip: Tensors, wanted: Start) -> Tensors:
        """As of a Head; with LoRA, _in is uniform within inputs^-0.5 either way, and _out 0."""
        other = tuple(f"{side}_block_" for side in SIDES if side not in wanted.sides)
        tensors = {name: tensor for name, tensor in clip.items() if not (other and name.startswith(other))}
        for side in wanted.sides if wanted.settings["tune"] == "lora" else ():
            for part in _MATRICES:
                if (weight := tensors.get(f"{side}_block_{part}")) is not None:
                    outputs, inputs = weight.shape
                    rank, bound = min(wanted.settings["rank"], outputs, inputs), inputs**-0.5
                    tensors[f"{side}_block_{part}_in"] = uniform(
                        (rank, inputs), bound=bound, generator=wanted.generator
                    )
                    tensors[f"{side}_block_{part}_out"] = torch.zeros(outputs, rank)
        return tensors

    @classmethod
    def learning_names(cls, side: str, *, settings: Mapping[str, Any]) -> tuple[str, ...]:
        """As of a Head."""
        tuned = {
            "all": PARTS,
            "norms": _NORMS,
            "lora": tuple(f"{part}_{end}" for part in _MATRICES for end in ("in", "out")),
        }[settings["tune"]]
        return *super().learning_names(side, settings=settings), *(f"{side}_block_{part}" for part in tuned)

    @classmethod
    def shapes(cls, projections: Mapping[str, np.ndarray], *, actual: Shapes, metadata: Mapping[str, str]) -> Shapes:
        """As of a Head; form, width and rank are those of the file's own tensors."""
        shapes = dict(Head.shapes.__func__(cls, projections, actual=actual, metadata=metadata))
        for side in sides_in(metadata):
            inner = actual.get(f"{side}_block_inner_weight", ())
            form = "transformer" if f"{side}_block_outer_weight" in actual else "pool"
            own = shapes_of(form, width=inner[1] if len(inner) == 2 else 1)
            shapes |= {f"{side}_block_{part}": shape for part, shape in own.items()} | {f"{side}_block_{HEADS}": ()}
            for part in _MATRICES:
                first = actual.get(f"{side}_block_{part}_in")
                if first is not None and part in own:
                    rank = first[0] if first else 1
                    shapes[f"{side}_block_{part}_in"] = (rank, own[part][1])
                    shapes[f"{side}_block_{part}_out"] = (own[part][0], rank)
        return shapes

    @classmethod
    def load(cls, tensors: Tensors, *, metadata: Mapping[str, str]) -> "BlockHead":
        """As of a Head."""
        for side in sides_in(metadata):
            heads, width = float(tensors[f"{side}_block_{HEADS}"]), tensors[f"{side}_block_inner_weight"].shape[1]
            if not (heads >= 1 and heads == int(heads) and width % int(heads) == 0):
                raise HeadError(
                    f"a head of kind block has {heads:g} heads of attention in its file, for tokens of width {width}; "
                    f"expected a whole number that divides it. Train it again."
                )
        return cls(tensors)

    @property
    def metadata(self) -> dict[str, str]:
        """As of a Head: sides."""
        return {"sides": sides_word(side for side in SIDES if self._has_block(side))}

    @property
    def inputs(self) -> dict[str, str]:
        """As of a Head."""
        return {side: TOKENS if self._has_block(side) else FEATURES for side in SIDES}

    def untrained(self, projections: Mapping[str, np.ndarray]) -> Tensors:
        """As of a Head: LoRA's _in is the head's own, and _out 0."""
        tensors = self.tensors
        device = next(iter(tensors.values())).device
        clip = clip_tensors(projections, names=self.names)
        own = {name: clip[name].to(device) for name in tensors if name in clip}
        ends = {name: tensors[name] for name in tensors if name.endswith("_in")}
        return (
            Head.untrained(self, projections)
            | own
            | ends
            | {name: torch.zeros_like(tensors[name]) for name in tensors if name.endswith("_out")}
        )

    def layers(self, side: str) -> tuple | None:
        """As of a Head: other libraries have no block of tokens between layers; see `replaced_block`."""
        return None if self._has_block(side) else super().layers(side)

    def behind_blocks(self) -> LinearHead:
        """As of a Head: the projections."""
        return LinearHead(self.tensors)

    def replaced_block(self, side: str) -> tuple[str, Tensors] | None:
        """As of a Head."""
        if not self._has_block(side):
            return None
        form = "transformer" if getattr(self, f"{side}_block_outer_weight") is not None else "pool"
        return form, {part: self._part(side, part).detach() for part in FORMS[form]}

    def embed_images(self, features: torch.Tensor | TokenRows) -> torch.Tensor:
        """As of a Head: TokenRows of images, where it has their block."""
        return self._embed("image", features)

    def embed_texts(self, features: torch.Tensor | TokenRows) -> torch.Tensor:
        """As of a Head: TokenRows of captions, where it has their block."""
        return self._embed("text", features)

    def _embed(self, side: str, rows: torch.Tensor | TokenRows) -> torch.Tensor:
        weight, bias = getattr(self, f"{side}_weight"), getattr(self, f"{side}_bias")
        if self._has_block(side):
            rows = self._features(side, rows.double() if weight.dtype == torch.float64 else rows.float())
        projected = functional.linear(rows.to(weight.dtype), weight.t(), bias)
        return functional.normalize(projected, dim=-1)

    def _features(self, side: str, rows: TokenRows) -> torch.Tensor:
        """(B, D): what the block makes of tokens."""
        tokens, there = rows.padded()
        query = tokens[:, 0] if side == "image" else tokens[torch.arange(len(rows)), rows.lengths - 1]
        if getattr(self, f"{side}_block_outer_weight") is None:
            return self._attended(side, tokens, asking=query, there=there)
        scale, shift = self._plain(side, "norm_1_weight"), self._plain(side, "norm_1_bias")
        with torch.no_grad():
            normed = functional.layer_norm(tokens, tokens.shape[-1:], eps=_EPSILON)
            normed_query = functional.layer_norm(query, query.shape[-1:], eps=_EPSILON)
        asking = normed_query * scale + shift
        attended = self._attended(side, normed, asking=asking, there=there, scale=scale, shift=shift)
        x = query + self._linear(side, attended, layer="outer")
        inner = self._linear(side, self._normed(side, x, norm="norm_2"), layer="up")
        # x sigmoid(1.702 x)
        x = x + self._linear(side, functional.silu(_QUICK_GELU * inner) / _QUICK_GELU, layer="down")
        return self._normed(side, x, norm="norm_3")

    def _attended(
        self,
        side: str,
        tokens: torch.Tensor,
        *,
        asking: torch.Tensor,
        there: torch.Tensor | None,
        scale: torch.Tensor | None = None,
        shift: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """(B, W): the attention of `asking` (B, W) to tokens (B, L, W) times scale plus shift, before its output.

        Biases of keys shift all scores of a query equally, which softmax ignores; so does `shift` there.
        """
        count = int(getattr(self, f"{side}_block_{HEADS}"))
        width = tokens.shape[2]
        # Split, and not cut by slices: the gradient of each slice would be as large as the whole, and mostly zeros.
        query, rest = self._plain(side, "inner_weight").split((width, 2 * width))
        query_bias, _, value_bias = self._plain(side, "inner_bias").chunk(3)
        key, value = rest.unflatten(0, (2, count, -1))
        asked = functional.linear(asking, query, query_bias)
        first, last = self._low_rank(side, "inner_weight")
        if first is not None:
            query_last, rest_last = last.split((width, 2 * width))
            asked = asked + functional.linear(functional.linear(asking, first), query_last)
            key_last, value_last = rest_last.unflatten(0, (2, count, -1))
        # (H, B, d) x (H, d, W): one product a head, over all rows.
        asked = (asked.unflatten(1, (count, -1)) * (width // count) ** -0.5).transpose(0, 1)
        mapped = asked @ key if first is None else asked @ key + asked @ key_last @ first
        mapped = mapped.transpose(0, 1)
        scores = (mapped if scale is None else mapped * scale) @ tokens.transpose(1, 2)
        if there is not None:
            scores = scores.masked_fill(~there[:, None], -torch.inf)
        mixed = scores.softmax(dim=-1) @ tokens
        mixed = (mixed if scale is None else mixed * scale + shift).transpose(0, 1)
        values = mixed @ value.transpose(1, 2)
        if first is not None:
            values = values + mixed @ first.t() @ value_last.transpose(1, 2)
        return values.transpose(0, 1).flatten(1) + value_bias

    def _normed(self, side: str, x: torch.Tensor, *, norm: str) -> torch.Tensor:
        weight, bias = self._plain(side, f"{norm}_weight"), self._plain(side, f"{norm}_bias")
        return functional.layer_norm(x, x.shape[-1:], weight, bias, _EPSILON)

    def _linear(self, side: str, x: torch.Tensor, *, layer: str) -> torch.Tensor:
        y = functional.linear(x, self._plain(side, f"{layer}_weight"), self._plain(side, f"{layer}_bias"))
        first, last = self._low_rank(side, f"{layer}_weight")
        return y if first is None else y + functional.linear(functional.linear(x, first), last)

    def _plain(self, side: str, part: str) -> torch.Tensor:
        return getattr(self, f"{side}_block_{part}")

    def _low_rank(self, side: str, part: str) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        """What LoRA adds to a matrix, last @ first; their product is never made, nor a gradient as large."""
        first, last = (getattr(self, f"{side}_block_{part}_{end}", None) for end in ("in", "out"))
        return first, last

    def _part(self, side: str, part: str) -> torch.Tensor:
        """A weight of the block, with what LoRA adds to it."""
        first, last = self._low_rank(side, part)
        return self._plain(side, part) if first is None else self._plain(side, part) + last @ first

    def _has_block(self, side: str) -> bool:
        return getattr(self, f"{side}_block_inner_weight") is not None


HEAD: type[Head] = BlockHead
