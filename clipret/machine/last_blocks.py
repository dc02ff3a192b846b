"""The last block of an encoder: what its weights are called, and their shapes. It imports no torch.

transformer  a residual attention block with CLIP's MLP, and the LayerNorm behind the last block (norm_3)
pool         the attention pool of CLIP's ResNets, up to its output's projection

W is the width of the block's tokens. Matrices are (outputs, inputs), as torch's Linear has them.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

# Beside the weights, as a number: into how many heads the attention is cut.
HEADS = "heads"
_ATTENTION = {"inner_weight": (3, 1), "inner_bias": (3,)}
# Part -> its shape, in widths.
FORMS: Mapping[str, Mapping[str, tuple[int, ...]]] = {
    "transformer": {
        "norm_1_weight": (1,),
        "norm_1_bias": (1,),
        **_ATTENTION,
        "outer_weight": (1, 1),
        "outer_bias": (1,),
        "norm_2_weight": (1,),
        "norm_2_bias": (1,),
        "up_weight": (4, 1),
        "up_bias": (4,),
        "down_weight": (1, 4),
        "down_bias": (1,),
        "norm_3_weight": (1,),
        "norm_3_bias": (1,),
    },
    "pool": _ATTENTION,
}
# Every part that some form has.
PARTS = tuple(FORMS["transformer"])


@dataclass(frozen=True)
class LastBlock:
    """The last block of a side of an encoder.

    form       of FORMS
    heads      of its attention
    positions  tokens of every row; None: each row has its own number
    weights    part -> array, float32
    """

    form: str
    heads: int
    positions: int | None
    weights: dict[str, np.ndarray]

    @property
    def width(self) -> int:
        """W."""
        return self.weights["inner_weight"].shape[1]


def shapes_of(form: str, *, width: int) -> dict[str, tuple[int, ...]]:
    """Part -> shape of a block of this form, for tokens of that width."""
    return {part: tuple(width * side for side in sides) for part, sides in FORMS[form].items()}


def pack(form: str, weights: Mapping[str, np.ndarray]) -> np.ndarray:
    """(K,) float32: all parts of a block, one after the other."""
    return np.concatenate([np.asarray(weights[part], dtype=np.float32).ravel() for part in FORMS[form]])


def unpack(form: str, values: np.ndarray, *, width: int) -> dict[str, np.ndarray]:
    """The parts that `pack` put together. Raises ValueError when there are more numbers or fewer."""
    shapes = shapes_of(form, width=width)
    ends = np.cumsum([int(np.prod(shape)) for shape in shapes.values()])
    if values.shape != (ends[-1],):
        raise ValueError(f"it has {values.size:,} numbers; expected {ends[-1]:,}")
    pieces = np.split(values, ends[:-1])
    return {part: piece.reshape(shape) for (part, shape), piece in zip(shapes.items(), pieces, strict=True)}


def form_of(parts: Mapping[str, object] | set[str]) -> str | None:
    """The form whose parts these are; None: there is none."""
    return next((form for form, names in FORMS.items() if set(names) == set(parts)), None)
