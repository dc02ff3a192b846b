"""Heads: the trainable map from cached features to embeddings, and their files.

HEADS is the table of the kinds: a new one is a file in this folder that binds HEAD to its class (base.Head says what it
needs to have), and a row here. This module is imported with the settings, so it imports neither torch nor anything else
of clipret.

base           what every head has
linear         CLIP's projections made trainable
added          what the three below have in common
adapter        a residual adapter behind CLIP's projections
mlp            residual blocks before CLIP's projections
gated          a gated linear unit beside CLIP's projections
block          the encoder's last block and the projection behind it, which read tokens
files          safetensors, never pickle
interpolation  wise-ft: between CLIP's own head and a trained one
"""

import importlib
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from clipret.heads.base import Head


class HeadRow(NamedTuple):
    """Where a kind of head is declared, and which settings of a training it takes.

    module    imported when the head is used
    settings  names among those of TrainConfig
    inits     what it can start as, of TrainConfig's `init`
    alone     whether its gradients are torch's, one run at a time, and not written out for a stack of runs
    """

    module: str
    settings: tuple[str, ...] = ()
    inits: tuple[str, ...] = ("clip", "random")
    alone: bool = False


# Of heads whose projections learn.
_ALL_INITS = ("clip", "random", "procrustes", "ridge", "cca")

HEADS: dict[str, HeadRow] = {
    "linear": HeadRow("clipret.heads.linear", settings=("bias",), inits=_ALL_INITS),
    "adapter": HeadRow("clipret.heads.adapter", settings=("adapter_reduction", "adapter_ratio", "adapter_relu")),
    "mlp": HeadRow("clipret.heads.mlp", settings=("bias", "hidden", "blocks"), inits=_ALL_INITS),
    "gated": HeadRow("clipret.heads.gated", settings=("bias", "hidden"), inits=_ALL_INITS),
    "block": HeadRow("clipret.heads.block", settings=("tune", "rank"), inits=("clip",), alone=True),
}


def load_head_kind(name: str) -> "type[Head]":
    """The class of a kind of the table; imports its file, and torch."""
    return importlib.import_module(HEADS[name].module).HEAD
