"""Both directions of retrieval from one pass over the product of images and captions.

Nothing is sorted and the score matrix is never whole: of each tile of it, what is below each matching pair's edge is
counted, by rows for images and by columns for captions. With N images, M captions, width E and P pairs that is 2NME
operations for the product and about P/N + 1 comparisons a score.

Shape suffixes: N images, M captions, E embedding width, P matching pairs, Q queries, T best items kept.
"""

from dataclasses import dataclass, replace

import numpy as np
import torch

from clipret.config import DIRECTIONS, EvalConfig
from clipret.progress import ProgressCallback, silent
from clipret.retrieval.cpu import count_on_cpu
from clipret.retrieval.cuda import count_by_torch
from clipret.retrieval.ranks import Positives, Ranks

_TF32_DROPPED_BITS = 13


@dataclass(frozen=True)
class Matches:
    """The matching pairs of both directions, in the order that ranking needs them in."""

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
        matches         pairs where a caption matches not just its image: {"t2i": (captions, images),
                        "i2t": (images, captions)}, one entry a pair, in any order
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
    on_progress: ProgressCallback = silent,
) -> dict[str, Ranks]:
    """Exact ranks of all matching items, images for captions (t2i) and captions for images (i2t).

    image_embeddings  (N, E) float32, L2-normalised
    text_embeddings   (M, E) float32, L2-normalised, on the same device
    block             images scored at once: each thread holds the scores of so many with up to 2,048 captions (on
                      CUDA with all captions); decides memory, not results
    top               items of each query kept for Ranks.top; 0: none. Scores that differ by less than float32 can tell
                      may stand in either order
    precision         fp32; tf32 or bf16: embeddings are rounded to that before, and ranked as exactly
    on_progress       called after each tile, phase "ranking", counting images

    An item's rank is 1 + the other items that are not below it: ties count against us (ties.py says what a tie is).
    Matching items of the same query do not count against each other beyond their own order. What has no matching item
    is in the other direction's gallery but is not a query. A NaN score loses against everything, and a NaN gallery item
    beats everything, so broken embeddings cannot score well.

    Ranks are those of scores in float64 with that rule, whatever the block, the device and the number of threads.
    """
    images, texts = (_rounded(side, precision).contiguous() for side in (image_embeddings, text_embeddings))
    count = count_on_cpu if images.device.type == "cpu" else count_by_torch
    settings = {"block": block, "top": top, "on_progress": on_progress}
    counted = count(images, texts, positives={"t2i": matches.t2i, "i2t": matches.i2t}, **settings)
    by_direction = {}
    for direction, (positives, gallery) in {"t2i": (matches.t2i, images), "i2t": (matches.i2t, texts)}.items():
        below, best = counted[direction]
        ranks = positives.ranks(below, gallery=len(gallery))
        by_direction[direction] = replace(ranks, top=None if best is None else best[ranks.rows])
    return by_direction


def _rounded(embeddings: torch.Tensor, precision: str) -> torch.Tensor:
    """Embeddings as the precision keeps them, in float32; products of what fits in 11 bits are exact."""
    if precision == "bf16":
        return embeddings.bfloat16().float()
    if precision == "tf32":
        half = 1 << (_TF32_DROPPED_BITS - 1)
        bits = (embeddings.contiguous().view(torch.int32) + half) >> _TF32_DROPPED_BITS << _TF32_DROPPED_BITS
        # Adding may take a NaN to zero.
        return torch.where(embeddings.isfinite(), bits.view(torch.float32), embeddings)
    return embeddings.float()
