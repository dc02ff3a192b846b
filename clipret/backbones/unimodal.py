"""What encoders of images alone and of text alone have in common: a file and a row of halves.LIBRARIES a library."""

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from clipret.backbones.hf_tokens import Tokens
from clipret.backbones.library import Side
from clipret.backbones.tokenizing import LibraryTokenizer
from clipret.errors import BackboneError

# Marks positions behind a caption's end. The padding of some tokenizers is also the token that ends a caption.
PADDING = -1


@dataclass(frozen=True, eq=False)
class Half:
    """One half of a pair.

    side           an ImageSide or a TextSide without a slot
    library        it comes from, with its version
    files          its weights
    details        what else decides its features, in words
    preprocessing  how an image becomes pixels, in words; "" of text
    """

    side: Side
    library: str
    files: list[Path]
    details: Mapping[str, str] = field(default_factory=dict)
    preprocessing: str = ""


def pad_right(tokenizer: Any, *, name: str) -> Any:
    """The tokenizer, set to pad and truncate at the end. Raises BackboneError where no token can be the padding."""
    tokenizer.padding_side = tokenizer.truncation_side = "right"
    if tokenizer.pad_token_id is None:
        # It is masked, so that any token does.
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token
    if tokenizer.pad_token_id is None:
        raise BackboneError(f"the tokenizer of {name} has no padding; expected a pad_token in its files.")
    return tokenizer


def mask_tokenizer(tokens: Tokens) -> LibraryTokenizer:
    """A tokenizer of text whose padding is masked, for `masked`."""
    return LibraryTokenizer(
        tokenize=functools.partial(_padded, tokens=tokens),
        count=tokens.count,
        context_length=tokens.length,
        end=None,
        padding=PADDING,
        cut=True,
    )


def _padded(texts: list[str], *, tokens: Tokens) -> torch.Tensor:
    """Ids of B captions: (B, L) int64, L the longest of them, PADDING behind the others."""
    rows = tokens.rows(texts)
    padded = np.full((len(rows), max(map(len, rows), default=0)), PADDING, dtype=np.int64)
    for row, ids in zip(padded, rows, strict=True):
        row[: len(ids)] = ids
    return torch.from_numpy(padded)


def masked(ids: torch.Tensor, *, padding: int) -> dict[str, torch.Tensor]:
    """(B, L) ids, PADDING behind captions -> what models of transformers take: input_ids, attention_mask.

    padding  the id that the model expects there
    """
    mask = ids != PADDING
    return {"input_ids": torch.where(mask, ids, padding), "attention_mask": mask.long()}


def revision_of(side: str, revision: str) -> dict[str, str]:
    """The entry of details for the revision on the hub of the encoder of a side; none for a folder of the user's."""
    return {f"{side}_revision": revision} if revision else {}
