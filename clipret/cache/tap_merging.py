"""The tokens of several caches of one encoder, as those of one cache."""

from collections.abc import Iterator, Sequence

import numpy as np

from clipret.cache.reading import FeatureCache
from clipret.cache.taps import StoredTokens, Tap
from clipret.machine.last_blocks import LastBlock

_FIGURES = ("cosine", "centred_cosine")


def tap_differences(first: FeatureCache, other: FeatureCache) -> list[str]:
    """In words, what keeps the tokens of two caches from being those of one."""
    differences = []
    shapes = [
        {side: (tap.width, tap.dtype, tap.positions) for side, tap in cache.taps.items()} for cache in (first, other)
    ]
    if shapes[0] != shapes[1]:
        differences.append("the shape of their tokens")
    elif not all(_same_block(block, other.blocks[side]) for side, block in first.blocks.items()):
        differences.append("the encoder's last block")
    return differences


def merged_taps(caches: Sequence[FeatureCache]) -> dict[str, Tap]:
    """side -> how the tokens of all caches, one after the other, are stored."""
    taps = {}
    for side, tap in caches[0].taps.items():
        starts = None
        if tap.starts is not None:
            lengths = [np.diff(cache.taps[side].starts) for cache in caches]
            starts = np.concatenate([[0], np.cumsum(np.concatenate(lengths))])
        taps[side] = Tap(tap.width, tap.dtype, positions=tap.positions, starts=starts)
    return taps


def merged_losses(caches: Sequence[FeatureCache]) -> dict | None:
    """tap_loss of all caches together: the mean over their measured rows, and the smallest; None: none has any."""
    of_sides: dict[str, list[dict]] = {}
    for cache in caches:
        for side, loss in (cache.about.get("tap_loss") or {}).items():
            of_sides.setdefault(side, []).append(loss)
    merged = {}
    for side, losses in of_sides.items():
        rows = [loss["rows"] for loss in losses]
        merged[side] = {"rows": sum(rows)} | {
            name: {
                "mean": round(float(np.average([loss[name]["mean"] for loss in losses], weights=rows)), 6),
                "min": min(loss[name]["min"] for loss in losses),
            }
            for name in _FIGURES
        }
    return merged or None


def token_blocks(cache: FeatureCache, side: str) -> Iterator[tuple[range, StoredTokens]]:
    """The tokens of all rows of one side, in pieces. Raises CacheError at one that is not what was written."""
    rows = np.arange(len(cache.checksums[side]))
    for chunk in cache.taps[side].chunks(rows):
        yield range(chunk.start, chunk.stop), cache.read_tokens(side, rows[chunk])


def _same_block(one: LastBlock, other: LastBlock) -> bool:
    alike = (one.form, one.heads, one.positions) == (other.form, other.heads, other.positions)
    return alike and all(np.array_equal(values, other.weights[part]) for part, values in one.weights.items())
