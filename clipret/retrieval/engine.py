"""Both directions of retrieval in one pass over the product of images and captions.

Nothing is sorted, and the score matrix is never complete in memory. For each tile, the scores below each matching
pair's edge are counted, by rows for images and by columns for captions. With N images, M captions, width E and P pairs
this takes 2NME operations for the product and about P/N + 1 comparisons per score.

Shape suffixes: N images, M captions, E embedding width, P matching pairs, Q queries, T best items kept.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch

from clipret.config import DIRECTIONS, EvalConfig
from clipret.machine.progress import ProgressCallback, silent
from clipret.retrieval.cpu import count_on_cpu
from clipret.retrieval.cuda import count_by_torch
from clipret.retrieval.ranks import Positives, Ranks

_TF32_DROPPED_BITS = 13


@dataclass(frozen=True)
class Matches:
    """The matching pairs of both directions, in the order that ranking needs."""

    t2i: Positives
    i2t: Positives

    @classmethod
    def of(
        cls,
        caption_images: np.ndarray,
        *,
        images: int,
        matches: dict[str, tuple[np.ndarray, np.ndarray]] | None = None,
    ) -> "Matches":
        """From the row of each caption's image, or from pairs.

        caption_images  (M,)
        images          number of images
        matches         pairs, if captions match more than their own image: {"t2i": (captions, images),
                        "i2t": (images, captions)}, one entry per pair, in any order
        """
        captions = np.arange(len(caption_images))
        pairs = matches or {"t2i": (captions, caption_images), "i2t": (caption_images, captions)}
        rows = {"t2i": len(captions), "i2t": images}
        return cls(**{direction: Positives.of(pairs[direction], rows=rows[direction]) for direction in DIRECTIONS})


def rank(
    image_embeddings: torch.Tensor,
    text_embeddings: torch.Tensor,
    *,
    matches: Matches,
    block: int = EvalConfig.block,
    top: int = 0,
    precision: str = EvalConfig.precision,
    corrections: Mapping[str, torch.Tensor] | None = None,
    on_progress: ProgressCallback = silent,
) -> dict[str, Ranks]:
    """Exact ranks of all matching items, images for captions (t2i) and captions for images (i2t).

    image_embeddings  (N, E) float32, L2-normalised
    text_embeddings   (M, E) float32, L2-normalised, on the same device
    block             images scored at once: each thread holds their scores with up to 2,048 captions (on CUDA with all
                      captions); affects memory, not results
    top               items of each query kept for Ranks.top; 0: none. Scores within float32 rounding of each other may
                      be in either order
    precision         fp32; tf32 or bf16: embeddings are first rounded to that, and then ranked just as exactly
    corrections       None: scores are cosines. Else t2i, i2t -> (N,), (M,) what is subtracted from the cosines of each
                      image, and of each caption; less their middle, which changes no rank, and as float32
    on_progress       called after each tile, phase "ranking", counting images

    An item's rank is 1 + the number of other items that are not below it: ties count against us (ties.py defines them).
    Matching items of the same query count against each other only by their own order. An item without a match is in the
    gallery of the other direction but is not a query. A NaN score loses against everything, and a NaN gallery item
    beats everything, so broken embeddings cannot score well.

    Ranks are those of float64 scores under that rule, for any block, device and number of threads.
    """
    images, texts = (rounded(side, precision).contiguous() for side in (image_embeddings, text_embeddings))
    count = count_on_cpu if images.device.type == "cpu" else count_by_torch
    settings = {"block": block, "top": top, "on_progress": on_progress}
    if corrections:
        images, texts, settings["added"] = _corrected(images, texts, corrections)
    counted = count(images, texts, positives={"t2i": matches.t2i, "i2t": matches.i2t}, **settings)
    by_direction = {}
    for direction, (positives, gallery) in {"t2i": (matches.t2i, images), "i2t": (matches.i2t, texts)}.items():
        below, best = counted[direction]
        ranks = positives.ranks(below, gallery=len(gallery))
        by_direction[direction] = replace(ranks, top=None if best is None else best[ranks.rows])
    return by_direction


def _corrected(
    images: torch.Tensor, texts: torch.Tensor, corrections: Mapping[str, torch.Tensor]
) -> tuple[torch.Tensor, torch.Tensor, float]:
    """Embeddings whose products are the corrected scores of both directions at once, and a bound on what is added.

    The product of an image and a caption is their cosine less the corrections of both. In each direction that of the
    query is the same for all items, and changes no rank.
    """
    of_images, of_texts = (_centred(corrections[direction]) for direction in DIRECTIONS)
    one_image, one_text = (torch.ones_like(column) for column in (of_images, of_texts))
    added = sum(float(column.abs().nan_to_num().amax()) for column in (of_images, of_texts))
    return (
        torch.cat([images, -of_images, one_image], dim=1),
        torch.cat([texts, one_text, -of_texts], dim=1),
        added,
    )


def _centred(correction: torch.Tensor) -> torch.Tensor:
    """(G,) -> (G, 1) float32, less the middle of the finite ones: small numbers lose less when they are rounded."""
    finite = correction[correction.isfinite()]
    middle = (finite.amin() + finite.amax()) / 2 if len(finite) else 0.0
    return (correction.double() - middle).float()[:, None]


def rounded(embeddings: torch.Tensor, precision: str) -> torch.Tensor:
    """Embeddings rounded to the precision, as float32. Products of two numbers of at most 11 bits are exact."""
    if precision == "bf16":
        return embeddings.bfloat16().float()
    if precision == "tf32":
        half = 1 << (_TF32_DROPPED_BITS - 1)
        bits = (embeddings.contiguous().view(torch.int32) + half) >> _TF32_DROPPED_BITS << _TF32_DROPPED_BITS
        # The addition may turn a NaN into zero.
        return torch.where(embeddings.isfinite(), bits.view(torch.float32), embeddings)
    return embeddings.float()
